"""Find the names that a cell uses, assigns and changes; pure (driver).

A cell uses a name if it may load the name before it assigns it, on any path through its conditions
and loops. Loads and stores are read from compiled code, which resolves the local names of
functions.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, ModuleType
from typing import Any

#: Compiler flag for ``await`` and ``async for`` outside of functions, as in notebooks.
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

_LOADS = frozenset(
    {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME", "DELETE_GLOBAL"}
)
_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_NO_NAMES = (ast.Break, ast.Continue, ast.Pass, ast.Global, ast.Nonlocal)


def used(tree: ast.Module) -> set[str]:
    """Return the names that a cell may load before it assigns them.

    Examples
    --------
    >>> sorted(used(ast.parse("a = b\\nfor c in a: print(c, d)\\nlater = later_too")))
    ['b', 'd', 'later_too', 'print']
    """
    needed, _ = _Reading().block(tree.body, frozenset())
    # Each namespace has its own names with double underscores, such as __name__.
    return {name for name in needed if not (name.startswith("__") and name.endswith("__"))}


def changed(tree: ast.Module) -> set[str]:
    """Return the names that a cell assigns, or whose items or attributes it assigns.

    For example ``df`` in ``df["y"] = 1`` and ``words`` in ``words += ["that"]``. Assignments inside
    of functions that the cell defines are not included.
    """
    found = set()
    for node in _outside_scopes(tree):
        if isinstance(node, ast.Name | ast.Subscript | ast.Attribute):
            root: ast.AST = node
            while isinstance(root, ast.Subscript | ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.add(root.id)
    return found


def submodules(tree: ast.Module, modules: dict[str, Any], known: Iterable[str]) -> set[str]:
    """Return the modules that a cell uses as attributes: ``a.b.c`` for a module named ``a``.

    Parameters
    ----------
    tree : ast.Module
        The cell.
    modules : mapping of str to object
        Namespace of the notebook; values other than modules are ignored.
    known : iterable of str
        Names of all imported modules.

    Returns
    -------
    set of str
        Full names of the modules.
    """
    imported, found = set(known), set()
    for node in ast.walk(tree):
        path: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            path.insert(0, at.attr)
            at = at.value
        if path and isinstance(at, ast.Name):
            module = modules.get(at.id)
            if isinstance(module, ModuleType):
                name = module.__name__
                for part in path:
                    name = f"{name}.{part}"
                    if name not in imported:
                        break
                    found.add(name)
    return found


def _outside_scopes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _SCOPES):
            yield child
            yield from _outside_scopes(child)


class _Reading:
    """Reads statements in the order of their execution.

    Each method takes the names that are certainly assigned before, and returns the names that are
    needed and those that are certainly assigned afterwards.
    """

    def block(
        self, statements: Sequence[ast.stmt], known: frozenset[str]
    ) -> tuple[set[str], frozenset[str]]:
        needed: set[str] = set()
        for statement in statements:
            more, known = self.statement(statement, known)
            needed |= more
        return needed, known

    def statement(self, node: ast.stmt, known: frozenset[str]) -> tuple[set[str], frozenset[str]]:
        match node:
            case ast.If():
                first = self.of(node.test, known)
                yes, after_yes = self.block(node.body, known)
                no, after_no = self.block(node.orelse, known)
                return first | yes | no, after_yes & after_no
            case ast.While():
                needed = self.of(node.test, known)
                return needed | self.all((node.body, node.orelse), known), known
            case ast.For() | ast.AsyncFor():
                needed = self.of(node.iter, known)
                inside = known | _stored(node.target)
                needed |= self.of(node.target, known)
                return needed | self.all((node.body, node.orelse), inside), known
            case ast.With() | ast.AsyncWith():
                needed = set()
                for item in node.items:
                    needed |= self.of(item.context_expr, known)
                    if item.optional_vars is not None:
                        needed |= self.of(item.optional_vars, known)
                        known |= _stored(item.optional_vars)
                more, known = self.block(node.body, known)
                return needed | more, known
            case ast.Try() | ast.TryStar():
                needed, after = self.block(node.body, known)
                for handler in node.handlers:
                    if handler.type is not None:
                        needed |= self.of(handler.type, known)
                    caught = known | ({handler.name} if handler.name else set())
                    needed |= self.block(handler.body, caught)[0]
                needed |= self.block(node.orelse, after)[0]
                more, surely = self.block(node.finalbody, known)
                return needed | more, surely if node.handlers else after | surely
            case _ if isinstance(node, _NO_NAMES):
                return set(), known
            case _:
                loads, stores = _names(_compiled([node]))
                return loads - known, known | stores

    def all(self, blocks: Iterable[Sequence[ast.stmt]], known: frozenset[str]) -> set[str]:
        return set().union(*(self.block(block, known)[0] for block in blocks))

    def of(self, node: ast.expr, known: frozenset[str]) -> set[str]:
        """Return the names that an expression needs, or the subexpressions of a target."""
        return {
            name
            for part in _loaded(node)
            for name in _names(_compiled([ast.copy_location(ast.Expr(part), part)]))[0]
        } - known


def _loaded(node: ast.expr) -> list[ast.expr]:
    """Return the expressions that are evaluated when a node is loaded or assigned."""
    match node:
        case ast.Tuple() | ast.List() if not isinstance(node.ctx, ast.Load):
            return [part for child in node.elts for part in _loaded(child)]
        case ast.Starred() if not isinstance(node.ctx, ast.Load):
            return _loaded(node.value)
        case ast.Subscript() if not isinstance(node.ctx, ast.Load):
            return [node.value, node.slice]
        case ast.Attribute() if not isinstance(node.ctx, ast.Load):
            return [node.value]
        case ast.Name() if not isinstance(node.ctx, ast.Load):
            return []
        case _:
            return [node]


def _stored(target: ast.expr) -> frozenset[str]:
    return frozenset(
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )


def _compiled(statements: list[ast.stmt]) -> CodeType:
    module = ast.Module(statements, [])
    code: CodeType = compile(module, "<cell>", "exec", FLAGS, dont_inherit=True)
    return code


def _names(code: CodeType, *, outermost: bool = True) -> tuple[set[str], set[str]]:
    """Return the global names that code, including nested code, loads and stores."""
    loads: set[str] = set()
    stores: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in _LOADS:
            loads.add(step.argval)
        elif step.opname == "STORE_GLOBAL" or (outermost and step.opname in _STORES):
            stores.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # Names stored in a class body are attributes of the class.
            more, globally = _names(constant, outermost=False)
            loads |= more
            if not outermost:
                stores |= globally
    return loads, stores
