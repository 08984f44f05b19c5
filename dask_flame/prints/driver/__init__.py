"""Prints where they are shown (driver)."""
