"""Prints on their way to the driver (scheduler)."""
