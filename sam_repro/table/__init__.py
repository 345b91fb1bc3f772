"""Tables: what papers print, and what runs say to it."""
