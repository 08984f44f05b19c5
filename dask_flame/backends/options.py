"""Options that a backend adds to those of a pool (driver)."""

from dask_flame.core.backend_options import BackendOptions as BackendOptions
from dask_flame.core.options import Option as Option
from dask_flame.core.options import option as option
