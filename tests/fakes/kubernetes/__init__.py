"""A Kubernetes API server for tests, over real HTTP, whose pods are processes of this machine.

Needs aiohttp and PyYAML: ``pip install aiohttp``. Only tests import it.
"""

from fakes.kubernetes.cluster import FakeKubernetes
from fakes.kubernetes.requests import Request, Requests

__all__ = ["FakeKubernetes", "Request", "Requests"]
