"""The Kubernetes API: requests, a watch, port forwarding, and its errors (driver)."""
