"""The objects of the Machines API, as far as they are used (driver)."""

from __future__ import annotations

from typing import Any, TypedDict


class Guest(TypedDict):
    """The size of a machine."""

    cpu_kind: str
    cpus: int
    memory_mb: int


class File(TypedDict):
    """A file that Fly writes into the machine before it starts. `raw_value` is in base64."""

    guest_path: str
    raw_value: str


class Mount(TypedDict, total=False):
    """A volume of a machine, by its id."""

    volume: str
    path: str


class StopConfig(TypedDict):
    """The signal that asks a machine to end, and how long it may then take (``"40s"``)."""

    signal: str
    timeout: str


class MachineConfig(TypedDict, total=False):
    """What a machine runs, and with which resources."""

    image: str
    guest: Guest
    env: dict[str, str]
    files: list[File]
    init: dict[str, list[str]]
    metadata: dict[str, str]
    mounts: list[Mount]
    services: list[dict[str, Any]]
    auto_destroy: bool
    restart: dict[str, str]
    stop_config: StopConfig


class CreateRequest(TypedDict, total=False):
    """The body of a request to create a machine."""

    name: str
    region: str
    config: MachineConfig
    skip_launch: bool


class UpdateRequest(TypedDict, total=False):
    """The body of a request to change a machine."""

    config: MachineConfig
    skip_launch: bool


class Event(TypedDict, total=False):
    """Something that happened to a machine. `timestamp` is in milliseconds."""

    type: str
    status: str
    source: str
    timestamp: int
    request: dict[str, Any]


class Machine(TypedDict, total=False):
    """A machine, as the API shows it."""

    id: str
    name: str
    state: str
    region: str
    instance_id: str
    private_ip: str
    created_at: str
    updated_at: str
    config: MachineConfig
    events: list[Event]


class LogLine(TypedDict, total=False):
    """One line of a machine's output."""

    message: str
    timestamp: str
    instance: str
