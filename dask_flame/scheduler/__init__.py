"""The parts inside Dask's scheduler: placement of calls, and demand for runners (scheduler)."""
