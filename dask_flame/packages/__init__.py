"""Compare the packages of runners with the driver's, and install them on runners (all places)."""
