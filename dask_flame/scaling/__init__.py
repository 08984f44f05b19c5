"""The scaling policy: takes the time, the demand and the runners, and returns decisions.

It performs no I/O, reads no clock and does not use Dask.
"""
