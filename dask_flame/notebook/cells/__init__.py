"""Run whole notebook cells on a runner (driver, runner)."""
