"""What a refusal of Fly means for a runner; pure (driver)."""

from __future__ import annotations

from dask_flame.backends.fly.api.errors import FlyError


def beyond_limit(error: FlyError) -> bool:
    """Return whether an organization has as many machines as it may have."""
    return error.status in (403, 422) and "limit" in error.message.lower()


def is_final(error: FlyError) -> bool:
    """Return whether Fly would refuse the same request again."""
    return error.status in (400, 401, 403, 404, 422) and not beyond_limit(error)


def refusal(error: Exception) -> str:
    """Return Fly's message, with the setting behind the refusal."""
    text = str(error)
    if not isinstance(error, FlyError):
        return text
    if error.no_capacity:
        return f"{text}; relevant settings: region, cpus, memory, cpu_kind and mounts"
    if beyond_limit(error):
        return f"{text}; relevant settings: max; or the limit of the organization, which Fly raises"
    if error.status in (400, 422):
        return f"{text}; relevant settings: image, cpus, memory, region and mounts"
    if error.status in (401, 403):
        return f"{text}; relevant settings: FLY_API_TOKEN, whose token is for app="
    if error.status == 404:
        return f"{text}; relevant settings: app, image, region and mounts"
    return text
