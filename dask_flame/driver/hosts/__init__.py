"""Hosts of a cluster's scheduler: in the driver's process, or remote (driver)."""
