"""Pickle calls, results and errors, and read them safely (all places)."""
