"""The Kubernetes API: requests, a watch, port forwarding, and errors (driver)."""
