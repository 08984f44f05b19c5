"""Kubernetes objects: written, laid over each other, read and shown; pure (driver)."""
