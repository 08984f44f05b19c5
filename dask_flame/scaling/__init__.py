"""The policy: time, demand and runners in, decisions out; no I/O, no clock, no Dask."""
