"""What was asked: from a command line to a checked configuration."""
