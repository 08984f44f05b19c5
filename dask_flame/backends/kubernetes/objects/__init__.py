"""Create, merge, read and display Kubernetes objects; pure (driver)."""
