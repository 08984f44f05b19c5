"""Create ``dask_flame/core/tokens.json``, patterns of known tokens, from gitleaks' rules.

    git clone https://github.com/gitleaks/gitleaks
    python scripts/gitleaks_rules.py gitleaks

Selects the rules that recognize a token by itself, for example by its prefix. Rules that need a
name beside it (``twitter_secret = …``) are left out: ``core/redaction.py`` judges names, and
``core/tokens.py`` random text. Go's regular expressions are converted to Python's, without the
terminator required after a token, which is the end of a line of code there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

OUT = Path(__file__).parent.parent / "dask_flame" / "core" / "tokens.json"
#: Prefixes of rules that need a name beside the token, and rules of no use here.
NAMED = ("(?i)[\\w.-]{0,50}?", "[\\w.-]{0,50}?")
UNFIT = re.compile(r"curl-|generic-api-key|kubernetes-secret|nuget|private-key|sidekiq|freemius")
#: The terminator required after a token.
END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""


def in_python(go: str) -> str:
    """Convert a regular expression from Go to Python."""
    go = go.replace(END, "").replace(r"\z", r"\Z").replace("[:alnum:]", "a-zA-Z0-9")
    out, depths, i, bracket = "", [0], 0, False
    while i < len(go):
        if go[i] == "\\":
            out, i = out + go[i : i + 2], i + 2
            continue
        if not bracket and i and go.startswith("(?i)", i):
            # It applies up to the end of the group: in Python this needs a separate group.
            out, i = out + "(?i:", i + 4
            depths[-1] += 1
            continue
        if not bracket and go[i] == "(":
            depths.append(0)
        elif not bracket and go[i] == ")":
            out += ")" * depths.pop()
        bracket = (bracket or go[i] == "[") and not (bracket and go[i] == "]")
        out, i = out + go[i], i + 1
    return out + ")" * depths.pop()


def main(folder: str) -> None:
    given = tomllib.loads(Path(folder, "config", "gitleaks.toml").read_text(encoding="utf-8"))
    at = subprocess.check_output(["git", "-C", folder, "log", "-1", "--format=%H %cs"], text=True)
    commit, date = at.split()
    rules: list[tuple[list[str], str]] = []
    for rule in given["rules"]:
        go = rule.get("regex", "")
        if not go or go.startswith(NAMED) or UNFIT.match(rule["id"]):
            continue
        ours = in_python(go)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(ours)
        rules.append((rule["keywords"], ours))
    made = {
        "what": "Known kinds of tokens, made by scripts/gitleaks_rules.py; not to be edited",
        "source": "https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml",
        "commit": commit,
        "date": date,
        "license": Path(folder, "LICENSE").read_text(encoding="utf-8"),
        "rules": rules,
    }
    OUT.write_text(json.dumps(made, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    print(f"{len(rules)} of {len(given['rules'])} rules")


if __name__ == "__main__":
    main(sys.argv[1])
