"""Prints where they are made (runner)."""
