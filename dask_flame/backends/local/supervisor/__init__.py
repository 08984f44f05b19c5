"""The process that starts a cluster's local runners, and ends them when the driver is gone."""
