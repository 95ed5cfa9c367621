"""Prefer: evidence into preference."""
