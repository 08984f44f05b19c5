"""Page ``/flame``: the curves of calls and their ranking (scheduler)."""
