"""The parts inside Dask's scheduler: which runner takes which call, and how many are wanted."""
