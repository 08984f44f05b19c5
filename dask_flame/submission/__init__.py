"""What the driver tells the scheduler of the calls that its Clients submit (driver)."""
