"""Page ``/inspect``: what the processes of a cluster do (scheduler)."""
