"""A scheduler in a pod of its own, for runners that cannot connect to the driver.

The driver keeps the user's objects and the backend with its permissions. The scheduler and all
scaling decisions are in the pod: a whole :class:`dask_flame.FlameCluster` whose backend
(:mod:`~dask_flame.remote.proxy_backend`) sends its requests to the driver's. One
:class:`~dask_flame.core.channel.Channel` connects the two. The scheduler's process ends, together
with all runners, when the driver has been disconnected for ``disconnect_grace``.
"""
