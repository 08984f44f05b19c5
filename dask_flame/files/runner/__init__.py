"""The runner's side of files: it puts the driver's in place, and reads its own (runner)."""
