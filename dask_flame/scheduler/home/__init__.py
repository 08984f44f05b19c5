"""Storage for results whose runner ends (scheduler)."""
