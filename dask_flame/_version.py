"""The version, in one place: read here by the build and by ``dask_flame.__version__``."""

__version__ = "0.1.0"
