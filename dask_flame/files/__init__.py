"""Files of the driver on runners, and files of runners in the driver (all places)."""
