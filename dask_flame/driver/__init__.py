"""What a user holds, and its wiring (driver)."""
