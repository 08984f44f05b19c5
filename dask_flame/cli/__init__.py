"""``dask flame``: clusters seen and ended from a terminal (command line)."""
