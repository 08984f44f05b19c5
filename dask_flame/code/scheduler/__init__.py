"""Store versions of local modules, and send them to runners (scheduler)."""
