"""What runs on a runner: ``python -m dask_flame.runner`` (runner)."""
