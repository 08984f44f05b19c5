"""The directive ``{flame-table} settings``: a table that is read from the code (Sphinx)."""

from __future__ import annotations

from typing import Any

from code_tables import PACKAGE, TABLES, as_markdown
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class FlameTable(SphinxDirective):
    """A table that is read from the code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        made = as_markdown(TABLES[self.arguments[0]]())
        self.env.note_dependency(str(PACKAGE / "flame.yaml"))
        container = nodes.container()
        self.state.nested_parse(StringList(made, self.arguments[0]), 0, container)
        return container.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("flame-table", FlameTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
