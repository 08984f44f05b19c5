"""A Kubernetes API server for tests, over real HTTP, whose pods are processes of this machine.

Needs aiohttp and PyYAML: ``pip install aiohttp``. Only tests import it.
"""

from tests.fakes.kubernetes.cluster import FakeKubernetes
from tests.fakes.kubernetes.requests import Request, Requests

__all__ = ["FakeKubernetes", "Request", "Requests"]
