"""Collect and store reports (scheduler)."""
