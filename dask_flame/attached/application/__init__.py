"""The application's side of an attachment (application).

Imports only the standard library and :mod:`dask_flame.core` until somebody attaches.
"""
