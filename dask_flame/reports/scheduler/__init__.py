"""Reports where they are gathered and kept (scheduler)."""
