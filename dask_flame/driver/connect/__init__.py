"""Connect to a cluster that another process has made, and become its driver (driver).

Each driver leaves two things behind. With its backend, in a Secret of the cluster or in a folder of
the user's own, the :class:`~dask_flame.core.connection.ConnectionInfo`: certificates, and a key.
With its scheduler, if that is in another process, its own options, sealed with this key
(:mod:`.handover`): runners and the scheduler's process cannot read them.

An observer (:mod:`.observer`) needs the former. A process that becomes the driver (:mod:`.adopt`)
also claims its place at the scheduler (:mod:`dask_flame.remote.drivers`), which gives it the
latter.
"""
