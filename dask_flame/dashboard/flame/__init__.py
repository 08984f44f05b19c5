"""The page ``/flame``: the calls' curves, and their ranking (scheduler)."""
