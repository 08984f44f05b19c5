"""Find the local modules, and notice that they have changed (driver)."""
