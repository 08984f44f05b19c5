"""Tests that hold on any Kubernetes: on the fake in CI, and on a real cluster where there is one.

::

    KUBECONFIG=… DASK_FLAME_TEST_IMAGE=ghcr.io/me/dask-flame-test:1 pytest -m kubernetes

Each test runs on both. On a real cluster those that need a driver in a pod run in one: all of them
are sent there at the beginning, and what comes of each is shown here as if it had run here.

============ ============================================================================
``setting``  where all this is to happen, as the environment says
``asking``   Kubernetes' API, asked without waiting for a loop
``world``    a namespace with a quota and a Role, pods for drivers in it, and its end
``away``     pytest in a driver's pod, told of here
``begin``    what that pod begins with
``inside``   what pytest there tells of its tests
``ground``   what a test stands on: a namespace, seen with a driver's rights
============ ============================================================================
"""
