"""Reports where they are read (driver)."""
