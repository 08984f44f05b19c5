"""Page ``/pools``: runners over time, demand, boots, machines and events (scheduler)."""
