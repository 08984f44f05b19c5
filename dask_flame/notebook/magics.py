"""``%flame`` and ``%%flame``: run a whole cell on a runner, or in an application (driver)."""

from __future__ import annotations

from typing import Any

from distributed import get_client
from IPython.core.error import UsageError

from dask_flame.driver import calls
from dask_flame.errors import FlameError
from dask_flame.notebook.attached_cells import AttachedCells
from dask_flame.notebook.cell_calls import CellCalls
from dask_flame.notebook.cell_errors import as_usage_errors
from dask_flame.notebook.cell_options import CellOptions


class FlameMagic:
    """The magics ``%flame`` and ``%%flame`` of one shell.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self._calls = CellCalls(shell)
        self._options = CellOptions()
        self.attached = AttachedCells(shell, lambda line: self._options.changed(line).where())

    def flame(self, line: str, cell: str | None = None) -> Any:
        """Run a cell on a runner of the current Dask client's cluster.

        ::

            %%flame
            model = fit(data)               # as if it ran here

            %%flame pool=gpu timeout=5m     # options of this cell
            %flame pool=gpu                 # options of all following %%flame cells
            %flame pool=none                # use the first pool again

        Names that the cell uses are sent with it, including functions and classes defined in this
        notebook and the names that these use. Names that the cell assigns are sent back, also if it
        fails, as are names whose items or attributes it assigns (``df["y"] = 1``). Changes by a
        method (``results.append(1)``, ``model.fit(x)``) are not sent back unless the name is also
        assigned (``model = model.fit(x)``).

        Printed text, displays and plots appear while the cell runs. Interrupting the cell stops it
        on its runner. The options are those of ``dask_flame.call``: pool, timeout and rerun (yes or
        no).

        With ``on=`` the cell runs inside an application that is exposed with
        ``dask_flame.expose("shop")``, in a namespace of its own there; ``get=`` fetches values::

            %%flame on=shop get=total
            total = basket.total()
        """
        options = self._options.changed(line)
        if options.on is not None:
            return self._on(options, cell)
        try:
            with as_usage_errors(FlameError):
                annotations = options.annotations()
                checked = _checked(annotations)
        except UsageError as error:
            raise self._explained(error, options) from None
        if cell is None:
            self._options = options
            print(f"%%flame cells run with: {options}")
            if options.pool is not None and not checked:
                print("there is no Dask client yet: the first cell finds out about the pool")
            return None
        return self._calls.run(cell, annotations)

    def _on(self, options: CellOptions, cell: str | None) -> Any:
        """Run a cell in an application, or let all following cells run there."""
        on, instance = options.where()
        assert on is not None
        if cell is not None:
            return self.attached.run(
                cell, on, instance=instance, timeout=options.timeout, get=options.get
            )
        with as_usage_errors(FlameError):
            application = self.attached.application(on, instance)
        self._options = options
        print(f"%%flame cells run in {application.name} (pid {application.pid}); to end this: ")
        print("%flame on=none")
        return None

    def _explained(self, error: UsageError, options: CellOptions) -> UsageError:
        """Add to an error of a cell's options that ``%flame`` has set them."""
        pool = self._options.pool
        if pool is None or options.pool != pool:
            return error
        return UsageError(
            f"{error}\n%flame has set pool={pool} for all cells; write %flame pool=none, or %flame "
            "with another pool"
        )


def _checked(annotations: dict[str, Any]) -> bool:
    """Check options with the current client; return False if there is no client yet."""
    try:
        client = get_client()
    except ValueError:
        return False
    calls.check_pool(client, annotations)
    return True
