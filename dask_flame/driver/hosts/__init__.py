"""Where a cluster's scheduler runs: in the driver's process, or apart from it (driver)."""
