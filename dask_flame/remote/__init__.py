"""A scheduler apart from its driver: in a pod by its runners, where they cannot reach the driver.

The driver keeps what the user holds, and the backend, with its rights. Beside the runners are the
scheduler, and all that decides: a whole :class:`dask_flame.FlameCluster` whose backend
(:mod:`~dask_flame.remote.proxy_backend`) asks the driver's. Between the two is one
:class:`~dask_flame.core.channel.Channel`. The scheduler's process ends when the driver has been
gone for ``disconnect_grace``, and everything with it.
"""
