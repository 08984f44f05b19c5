"""Warn of known vulnerabilities in the versions of a constraints file, with pip-audit.

``python scripts/audit_dependencies.py constraints.txt`` needs uv and a package index. It never
fails: a vulnerability that was published today must not stop a change of today. Where the database
cannot be reached, it says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Run apart from this environment, which is the one that is audited.
TOOL = ("--from", "pip-audit==2.10.1", "pip-audit")
_WITHIN = 90.0


def audit(constraints: Path, within: float = _WITHIN) -> list[str]:
    """Return lines to print about the versions in a file."""
    if find_spec("uv") is None:
        return ["not audited: uv is not installed"]
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", *TOOL]
    # All versions are in the file, so nothing is resolved or installed.
    command += ["--requirement", str(constraints), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    except subprocess.TimeoutExpired:
        return [f"not audited: no answer within {within:g} s"]
    try:
        return summary(json.loads(done.stdout))
    except (ValueError, LookupError, TypeError):
        last = done.stderr.strip().rpartition("\n")[2]
        return [f"not audited: {last or 'pip-audit printed nothing'}"]


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return lines about what pip-audit has found, from its JSON."""
    lines = []
    packages = found["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    for package in packages:
        for known in package.get("vulns", ()):
            names = ", ".join([known["id"], *known.get("aliases", ())])
            fixed = ", ".join(known.get("fix_versions", ())) or "no version yet"
            lines.append(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    lines.append(f"{len(packages) - len(skipped)} of {len(packages)} packages audited")
    if skipped:
        lines.append(
            "not audited, as the database did not have them or was not reached: "
            f"{', '.join(skipped[:5])}{', …' if len(skipped) > 5 else ''}"
        )
    return lines


if __name__ == "__main__":
    for line in audit(Path(sys.argv[1])):
        print(f"pip-audit: {line}")
