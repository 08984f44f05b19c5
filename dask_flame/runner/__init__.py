"""The process of a runner: ``python -m dask_flame.runner`` (runner)."""
