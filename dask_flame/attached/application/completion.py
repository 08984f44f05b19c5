"""Complete and describe names of the live application (application).

IPython's completer and inspector are used where they are installed. Its completer evaluates only
what cannot have side effects: with the policy ``limited`` it calls no properties and no
``__getattr__`` of the application's classes.
"""

from __future__ import annotations

import codeop
import contextlib
import inspect
import keyword
import re
import sys
import threading
import types
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

#: Attributes whose binding to an object calls no code of the application.
_BOUND = (
    classmethod,
    staticmethod,
    types.BuiltinFunctionType,
    types.ClassMethodDescriptorType,
    types.FunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.MethodType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
)
#: Look-ups of attributes that call no code of the application.
_USUAL: tuple[Any, ...] = (object.__getattribute__, types.ModuleType.__getattribute__)
_WORD = re.compile(r"[\w.]*$")
#: Maximum number of matches that are sent.
_MOST = 2_000


#: Loads IPython; None if that was not necessary.
_loading: threading.Thread | None = None
#: Maximum number of seconds for that.
_LOADED_WITHIN = 30.0


def load() -> None:
    """Load IPython in a thread, if it is installed, so that the first completion is quick."""
    if "IPython.core.completer" not in sys.modules and find_spec("IPython") is not None:
        global _loading
        target = partial(import_module, "dask_flame.attached.application.ipython")
        _loading = threading.Thread(target=target, name="dask-flame-attach-load", daemon=True)
        _loading.start()


def _is_loading() -> bool:
    return _loading is not None and _loading.is_alive()


def loaded() -> None:
    """Wait until :func:`load` has ended.

    If another thread imported a part of IPython meanwhile, the two would meet in one of its import
    cycles, and one of them would see a module that is not complete.
    """
    thread = _loading
    if thread is not None and thread is not threading.current_thread():
        thread.join(_LOADED_WITHIN)


def complete(code: str, cursor: int, names: dict[str, Any]) -> dict[str, Any]:
    """Return the matches at a place in a cell.

    Parameters
    ----------
    code : str
    cursor : int
        Number of characters before the cursor.
    names : dict
        What a cell can use.

    Returns
    -------
    dict
        ``matches``, with ``types`` and ``signatures`` of each; they replace the characters from
        ``start`` to ``end``.
    """
    if _is_loading():
        return _plain(code, cursor, names)  # Tab does not wait for imports
    if not _is_harmless(code[:cursor], names):
        return _answer([], cursor, cursor)
    try:
        from dask_flame.attached.application.ipython import completions
    except ImportError:
        return _plain(code, cursor, names)
    found = completions(code, cursor, names, _MOST)
    if not found:
        return _answer([], cursor, cursor)
    start, end = min(one.start for one in found), max(one.end for one in found)
    matches = [
        (code[start : one.start] + one.text + code[one.end : end], one.type or "", one.signature)
        for one in found
    ]
    if code[start : start + 1] == "." and all(text.startswith(".") for text, _, _ in matches):
        start += 1  # attributes come with their dot
        matches = [(text[1:], kind, signature) for text, kind, signature in matches]
    return _answer(matches, start, end)


def _is_harmless(before: str, names: dict[str, Any]) -> bool:
    """Return whether IPython may evaluate what is before the cursor.

    It knows properties, but evaluates other attributes that are computed, such as those of
    ``functools.cached_property``.
    """
    word = _WORD.search(before)
    assert word is not None
    path = word[0].rpartition(".")[0]
    return "." not in path or path.startswith(".") or find(path, names)[0]


def _answer(matches: list[tuple[str, str, str]], start: int, end: int) -> dict[str, Any]:
    return {
        "matches": [text for text, _, _ in matches],
        "types": [kind for _, kind, _ in matches],
        "signatures": [signature for _, _, signature in matches],
        "start": start,
        "end": end,
    }


def _plain(code: str, cursor: int, names: dict[str, Any]) -> dict[str, Any]:
    """Complete without IPython."""
    word = _WORD.search(code[:cursor])
    assert word is not None
    path, dot, prefix = word[0].rpartition(".")
    start = cursor - len(prefix)
    if dot:
        found, value = find(path, names)
        if not found:
            return _answer([], cursor, cursor)
        known = [str(name) for name in dir(value)]
    else:
        known = [*names, *vars(names.get("__builtins__", object)), *keyword.kwlist]
    matching = sorted(name for name in set(known) if name.startswith(prefix))
    if not prefix.startswith("_"):
        matching = [name for name in matching if not name.startswith("_")]
    return _answer([(name, "", "") for name in matching[:_MOST]], start, cursor)


def find(path: str, names: dict[str, Any]) -> tuple[bool, Any]:
    """Return whether there is an object at a dotted path, and the object; call no code for it."""
    first, *rest = path.split(".")
    scope = vars(names["__builtins__"]) if "__builtins__" in names else {}
    if first not in names and first not in scope:
        return False, None
    value = names.get(first, scope.get(first))
    for part in rest:
        try:
            static = inspect.getattr_static(value, part)
        except AttributeError:
            return False, None
        kind = type(value)
        if hasattr(type(static), "__get__") and not isinstance(static, _BOUND):
            return False, None  # a property of some kind
        if kind.__getattribute__ not in _USUAL and not isinstance(value, type):
            value = static
            continue
        # Functions and slots have to be bound.
        try:
            value = getattr(value, part)
        except Exception:
            return False, None
    return True, value


def inspected(code: str, cursor: int, names: dict[str, Any], detail: int) -> dict[str, Any]:
    """Return the signature, the documentation and, with ``detail``, the source at a place."""
    name = _name_at(code, cursor)
    found, value = find(name, names) if name else (False, None)
    if not found:
        return {"found": False, "name": name, "data": {}}
    return {"found": True, "name": name, "data": {"text/plain": _description(name, value, detail)}}


def _name_at(code: str, cursor: int) -> str:
    """Return the dotted name at a place, or the function whose arguments are written there."""
    before = _WORD.search(code[:cursor])
    after = re.match(r"\w*", code[cursor:])
    assert before is not None
    assert after is not None
    name = (before[0] + after[0]).strip(".")
    if name and not name[0].isdigit():
        return name
    depth = 0
    for place in range(cursor - 1, -1, -1):
        if code[place] in ")]}":
            depth += 1
        elif code[place] in "([{":
            if depth == 0 and code[place] == "(":
                called = _WORD.search(code[:place])
                return called[0] if called is not None else ""
            depth -= 1
    return ""


def _description(name: str, value: Any, detail: int) -> str:
    parts = []
    with contextlib.suppress(TypeError, ValueError):
        parts.append(f"Signature: {name}{inspect.signature(value)}")
    parts.append(f"Type:      {type(value).__name__}")
    if not callable(value) and not inspect.ismodule(value):
        parts.append(f"String form: {_short(value)}")
    with contextlib.suppress(TypeError, OSError):
        parts.append(f"File:      {inspect.getfile(value)}")
    if detail:
        with contextlib.suppress(TypeError, OSError):
            return "\n".join([*parts, "Source:", inspect.getsource(value)])
    if doc := inspect.getdoc(value):
        parts += ["Docstring:", doc]
    return "\n".join(parts)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"(its repr() fails: {type(error).__name__})"
    return text if len(text) <= 1_000 else f"{text[:1_000]}…"


def is_complete(code: str) -> dict[str, str]:
    """Return whether code can be run as it is: ``complete``, ``incomplete`` or ``invalid``."""
    # Only where it is loaded anyway: this is also asked with readonly=True.
    module = None if _is_loading() else sys.modules.get("IPython.core.inputtransformer2")
    if module is None:
        try:
            compiled = codeop.compile_command(code, symbol="exec")
        except (SyntaxError, OverflowError, ValueError):
            return {"status": "invalid", "indent": ""}
        return {"status": "incomplete" if compiled is None else "complete", "indent": ""}
    status, indent = module.TransformerManager().check_complete(code)
    return {"status": status, "indent": " " * (indent or 0)}
