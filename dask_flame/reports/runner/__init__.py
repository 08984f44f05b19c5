"""Reports where they are made (runner)."""
