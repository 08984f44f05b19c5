"""Contenders other than Dask, each on this machine with the same maximum number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any


class Ray:
    def __init__(self) -> None:
        import ray

        self.ray = ray
        self._remote: dict[Any, Any] = {}

    def start(self, runners: int, *, elastic: bool) -> None:
        self.ray.init(
            num_cpus=runners,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=os.environ["TMPDIR"],
        )

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.ray.get(self._of(function).remote(*args))

    def all(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        remote = self._of(function)
        found: list[Any] = self.ray.get([remote.remote(item) for item in items])
        return found

    def joined(self) -> list[float]:
        return []

    def _of(self, function: Callable[..., Any]) -> Any:
        if function not in self._remote:
            self._remote[function] = self.ray.remote(function)
        return self._remote[function]


class Loky:
    def __init__(self) -> None:
        import loky

        self.loky = loky

    def start(self, runners: int, *, elastic: bool) -> None:
        self.pool = self.loky.get_reusable_executor(max_workers=runners)

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(function, *args).result()

    def all(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self.pool.map(function, items))

    def joined(self) -> list[float]:
        return []


class Parsl:
    def __init__(self) -> None:
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        def configured(runners: int) -> Config:
            return Config(
                executors=[
                    HighThroughputExecutor(
                        address="127.0.0.1",
                        max_workers_per_node=runners,
                        provider=LocalProvider(init_blocks=1, max_blocks=1),
                    )
                ],
                run_dir=os.path.join(os.environ["TMPDIR"], "parsl"),
                initialize_logging=False,
                usage_tracking=0,
            )

        self.parsl, self._configured = parsl, configured
        self._apps: dict[Any, Any] = {}

    def start(self, runners: int, *, elastic: bool) -> None:
        self.parsl.load(self._configured(runners))

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._of(function)(*args).result()

    def all(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        app = self._of(function)
        return [future.result() for future in [app(item) for item in items]]

    def joined(self) -> list[float]:
        return []

    def _of(self, function: Callable[..., Any]) -> Any:
        if function not in self._apps:
            self._apps[function] = self.parsl.python_app(function)
        return self._apps[function]
