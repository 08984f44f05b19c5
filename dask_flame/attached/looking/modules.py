"""List the loaded modules and packages of this process (all places)."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from dask_flame.attached.looking.tables import counted, framed, html, html_table, text_table
from dask_flame.core.terminal_text import plain
from dask_flame.packages.imported import loaded

#: Maximum number of modules in a text.
_SHOWN = 60


@dataclass(frozen=True)
class Module:
    """A loaded module.

    Attributes
    ----------
    name : str
    version : str
        Its ``__version__``; empty if it has none.
    file : str
        Empty if it has none.
    changed : bool
        Whether its file was written, or removed, since this process began. A module that was loaded
        later than that may be the new one.
    """

    name: str
    version: str
    file: str
    changed: bool = False


@dataclass(frozen=True, repr=False)
class Modules:
    """The loaded modules of a process, without Python's own.

    Attributes
    ----------
    process : str
    pid : int
    modules : tuple of Module
        Those whose files have changed come first.
    """

    process: str
    pid: int
    modules: tuple[Module, ...]

    @property
    def changed(self) -> tuple[Module, ...]:
        """The modules whose files were written since the process began."""
        return tuple(module for module in self.modules if module.changed)

    def __getitem__(self, name: str) -> Module:
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(f"{self.process or self.pid} has not loaded {name}")

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def title(self) -> str:
        words = f"{self.process or 'a process'}, process {self.pid}: "
        words += counted(len(self.modules), "module")
        if changed := len(self.changed):
            words += f", {changed} changed on disk since the process began"
        return words

    def __repr__(self) -> str:
        rows = list(self._rows(self.modules[:_SHOWN]))
        more = len(self.modules) - len(rows)
        table = text_table(["MODULE", "VERSION", "FILE", ""], rows)
        return "\n".join([plain(self.title), "", table] + [f"and {more:,} more"] * (more > 0))

    def _repr_html_(self) -> str:
        tops = [module for module in self.modules if module.changed or "." not in module.name]
        table = html_table(["module", "version", "file", ""], self._rows(tops))
        more = len(self.modules) - len(tops)
        said = f"<p class=quiet>and {more:,} modules inside of these</p>" if more else ""
        return framed(f"<p><b>{html(self.title)}</b></p>", table, said)

    @staticmethod
    def _rows(modules: list[Module] | tuple[Module, ...]) -> Iterator[list[str]]:
        for module in modules:
            changed = "changed on disk" if module.changed else ""
            yield [module.name, module.version, module.file, changed]


@dataclass(frozen=True, repr=False)
class Versions:
    """The versions of Python and of the loaded packages of a process.

    Attributes
    ----------
    process : str
    pid : int
    python : str
    platform : str
    executable : str
    packages : dict of str to str
        Versions by package.
    """

    process: str
    pid: int
    python: str
    platform: str
    executable: str
    packages: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return (
            f"{self.process or 'a process'}, process {self.pid}: {self.python} "
            f"({self.executable}), {self.platform}"
        )

    def __repr__(self) -> str:
        table = text_table(["PACKAGE", "VERSION"], [list(each) for each in self.packages.items()])
        return f"{plain(self.title)}\n\n{table}"

    def _repr_html_(self) -> str:
        return framed(*self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the parts of the same as HTML."""
        yield f"<p><b>{html(self.title)}</b></p>"
        yield html_table(["package", "version"], [list(each) for each in self.packages.items()])


def modules(process: str = "") -> Modules:
    """Return the loaded modules of this process, without those of Python's standard library.

    Parameters
    ----------
    process : str, default ""
        The name of this process, to show.
    """
    began = _began()
    found = []
    for name, module in sys.modules.copy().items():
        if name.partition(".")[0] in sys.stdlib_module_names:
            continue
        # Not `getattr`: it may import what a package imports lazily.
        own = _variables(module)
        file, version = own.get("__file__"), own.get("__version__")
        file = os.path.abspath(file) if isinstance(file, str) else ""
        version = version if isinstance(version, str) else ""
        found.append(Module(name, version, file, bool(file) and _is_newer(file, began)))
    found.sort(key=lambda module: (not module.changed, module.name))
    return Modules(process, os.getpid(), tuple(found))


def versions(process: str = "") -> Versions:
    """Return the versions of Python and of the loaded packages of this process."""
    return Versions(
        process=process,
        pid=os.getpid(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        executable=sys.executable or "",
        packages=dict(sorted(loaded().items())),
    )


def _variables(module: object) -> dict[str, object]:
    with contextlib.suppress(TypeError):
        return vars(module)
    return {}


def _began() -> float:
    """Return when this process began, in Unix time.

    psutil knows it only to the second, as it counts from the time of the machine's start.
    """
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        running = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - running
    return float(psutil.Process().create_time())


def _is_newer(file: str, began: float) -> bool:
    try:
        return os.stat(file).st_mtime > began
    except FileNotFoundError:
        return ".zip" not in file and ".egg" not in file
    except OSError:
        return False
