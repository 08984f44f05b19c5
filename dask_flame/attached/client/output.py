"""Show the output of cells that run in an application (driver)."""

from __future__ import annotations

import sys
from typing import Any


def printed(output: dict[str, Any]) -> None:
    """Show an output of a cell as if it had been made here."""
    kind = output["type"]
    if kind == "stream":
        stream = sys.stderr if output["name"] == "stderr" else sys.stdout
        stream.write(output["text"])
        stream.flush()
        return
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is None:
        if kind == "display":
            print(output["data"].get("text/plain", ""))
    elif kind == "display":
        shell.display_pub.publish(
            output["data"],
            output["metadata"],
            transient=output["transient"],
            update=output["update"],
        )
    elif kind == "clear":
        shell.display_pub.clear_output(wait=output["wait"])
