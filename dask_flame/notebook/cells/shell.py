"""IPython shell of a runner: displays, figures and magics in cells (runner)."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from typing import Any

from distributed import get_worker
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from dask_flame.core.cell_streams import current
from dask_flame.notebook.cells.outputs import Outputs
from dask_flame.notebook.cells.widgets import NOTE, without_views

_INLINE = "module://matplotlib_inline.backend_inline"
_made = threading.Lock()
#: Magics that change the working directory of the process.
_MOVING = frozenset({"cd", "pushd", "popd"})


class CellPublisher(DisplayPublisher):
    """Sends displayed objects to the notebook of the current cell."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        outputs = current(Outputs)
        if outputs is not None:
            shown = without_views(data)
            if shown is not data:
                outputs.note(NOTE)
            outputs.display(shown, metadata or {}, transient or {}, update=update)

    def clear_output(self, wait: bool = False) -> None:
        outputs = current(Outputs)
        if outputs is not None:
            outputs.add("clear", wait)


class CellShell(InteractiveShell):
    """Shell without input and history, which does not replace ``__main__``."""

    display_pub_class = Type(CellPublisher)
    #: Temporary directory that is removed with the shell.
    folder: tempfile.TemporaryDirectory[str]

    def init_sys_modules(self) -> None:
        pass

    def init_virtualenv(self) -> None:
        pass

    def init_hooks(self) -> None:
        super().init_hooks()
        # A pager would wait for keys.
        self.set_hook("show_in_pager", _print_page, 0)

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        __tracebackhide__ = True
        if magic_name in _MOVING and (slots := get_worker().state.nthreads) > 1:
            raise UsageError(
                f"%{magic_name} would move the other calls of this runner, which takes {slots} at "
                "once; write whole paths, or use a pool with concurrency=1"
            )
        return super().run_line_magic(magic_name, line, _stack_depth + 1)

    def enable_gui(self, gui: str | None = None) -> None:
        pass


def cell_shell(namespace: dict[str, Any]) -> CellShell | None:
    """Return the shell of this process; None if other code has created another shell.

    It is created on first use. Magics use this namespace from now on.
    """
    with _made:
        if not InteractiveShell.initialized():
            config = Config()
            config.HistoryManager.enabled = False
            # Without a directory, IPython would create one in the user's home.
            folder = tempfile.TemporaryDirectory(prefix="ipython-", ignore_cleanup_errors=True)
            CellShell.instance(config=config, ipython_dir=folder.name).folder = folder
        shell = InteractiveShell.instance()
    if not isinstance(shell, CellShell):
        return None
    shell.user_ns = namespace
    return shell


def own_names(shell: CellShell) -> dict[str, Any]:
    """Return the names by which IPython's magics find its state in the cell's namespace."""
    # `%cd` and `%dhist` use the list of directories.
    names = {"get_ipython": lambda: shell, "_dh": [os.getcwd()]}
    shell.user_ns_hidden.update(names)
    return names


def _print_page(shell: Any, text: Any, start: int = 0, screen_lines: int = 0) -> None:
    print(text["text/plain"] if isinstance(text, dict) else text)


def begin_figures(shell: CellShell) -> None:
    """Let matplotlib draw into the cell."""
    if "matplotlib" not in sys.modules:
        os.environ.setdefault("MPLBACKEND", _INLINE)
        return
    with contextlib.suppress(ImportError):
        import matplotlib
        from matplotlib_inline.backend_inline import configure_inline_support

        if matplotlib.get_backend(auto_select=False) != _INLINE:
            matplotlib.use(_INLINE)
        configure_inline_support(shell, _INLINE)  # type: ignore[no-untyped-call]


def end_figures(shell: CellShell) -> None:
    """Show the remaining figures of the cell, and close them."""
    shell.events.trigger("post_execute")
