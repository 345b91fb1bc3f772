"""Sharpness-aware minimization, reproduced."""
