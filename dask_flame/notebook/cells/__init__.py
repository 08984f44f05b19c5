"""A whole notebook cell on a runner (driver, runner)."""
