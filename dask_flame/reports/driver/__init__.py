"""Read reports (driver)."""
