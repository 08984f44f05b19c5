"""The scheduler's side of files: it keeps those of the driver, and relays those of runners."""
