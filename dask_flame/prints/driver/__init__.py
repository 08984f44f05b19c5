"""Show prints (driver)."""
