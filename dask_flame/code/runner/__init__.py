"""Import local modules from the version of the call (runner)."""
