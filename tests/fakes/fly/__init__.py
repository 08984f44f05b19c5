"""The Fly Machines API for tests: a real HTTP server whose machines are processes (test process).

It needs aiohttp; the checks against the specification need jsonschema. Only tests import it.
"""

from tests.fakes.fly.cloud import FakeFly
from tests.fakes.fly.requests import Request, Requests

__all__ = ["FakeFly", "Request", "Requests"]
