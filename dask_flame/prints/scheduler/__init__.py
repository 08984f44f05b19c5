"""Collect prints from runners (scheduler)."""
