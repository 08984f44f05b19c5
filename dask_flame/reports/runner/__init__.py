"""Make and send reports (runner)."""
