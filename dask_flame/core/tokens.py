"""Recognize known kinds of tokens, and random-looking text; pure (runner).

The kinds are those of gitleaks, which is kept up to date (its license is MIT, see ``tokens.json``
for its text and the date). detect-secrets knows 20 of these 110, has had no release since 2024, and
would add a dependency on ``requests``.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

#: Minimum length of a token: shorter texts are not compared with the rules.
_LEAST = re.compile(r"[\w.~-]{10}")
#: Runs of characters that might be random.
_RUN = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
#: A word of a text, for the surroundings of a run.
_WORD = re.compile(r"[^\s\"'(){}\[\],;<>=]+")
_CHANGE = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[a-z0-9])|(?<=[0-9])(?=[A-Za-z])")
_LETTERS = re.compile(r"[a-z]{3,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"[0-9a-fA-F]+")
#: Paths, URLs and names of files, where numbers and hashes are common.
_PATH = re.compile(
    r"[~.]{0,2}[/\\]|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://|(?:sha\d+|md5|arn|urn):|[a-z][a-z_.-]+/"
)
_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}[/\\]?$")
#: A key made by Dask: its name, and a token that tells calls apart.
_KEY = re.compile(r"(?P<name>[A-Za-z_]\w*)-([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})(-\d+)*$")


def known(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each known kind of token in a text."""
    if _LEAST.search(text) is None:
        return
    lower, rules = text.lower(), _rules()
    for keyword in [keyword for keyword in rules if keyword in lower]:
        for pattern in rules[keyword]:
            for found in pattern().finditer(text):
                yield found.span()


def random(text: str, is_secret: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each random-looking part of a text.

    Generated passwords and keys look random.

    Parameters
    ----------
    text : str
    is_secret : callable
        Whether a value with this name is a secret.

    Notes
    -----
    Exempt are UUIDs, keys of Dask's calls, and parts of paths, URLs and names of files. About 1 in
    100 random texts of 32 letters and digits is missed, and about 1 in 20 of those with 20
    characters. Of 94,000 texts in the code of installed libraries, 50 are taken for random, most of
    them names of classes such as ``Wav2Vec2ForCTC``.
    """
    for found in _RUN.finditer(text):
        if _is_random(found[0]) and not _is_ordinary(text, found, is_secret):
            yield found.span()


def _is_random(run: str) -> bool:
    body = run.rstrip("=")
    letters = re.sub(r"[^A-Za-z0-9]", "", body)
    n, other = len(letters), len(body) - len(letters)
    if n < 20 or other > max(1, 0.12 * len(body)):
        return False
    changes = len(_CHANGE.findall(letters))
    if letters.islower() or letters.isupper():
        digits = sum(map(str.isdigit, letters))
        mixed = 0.12 * n <= digits <= 0.9 * n and changes >= 0.25 * (n - 1)
        return other <= 1 and mixed and _entropy(letters) >= 3
    words = sum(map(len, _LETTERS.findall(letters)))
    return changes >= 0.3 * (n - 1) and words <= 0.4 * n and _entropy(letters) >= 3


def _is_ordinary(text: str, run: re.Match[str], is_secret: Callable[[str], bool]) -> bool:
    if _UUID.fullmatch(run[0]):
        return True
    # The word that contains the run.
    word = next((w for w in _WORD.finditer(text) if w.end() > run.start()), run)
    if _PATH.match(word[0]) or _FILE.search(word[0]):
        return True
    key = _KEY.fullmatch(word[0])
    return key is not None and not is_secret(key["name"])


def _entropy(text: str) -> float:
    n = len(text)
    return -sum(k / n * math.log2(k / n) for k in Counter(text).values())


@functools.cache
def _rules() -> dict[str, list[Callable[[], re.Pattern[str]]]]:
    """Return the patterns of the rules, by a keyword (in lower case) that the text must contain."""
    given = json.loads(Path(__file__).with_name("tokens.json").read_text(encoding="ascii"))
    rules: dict[str, list[Callable[[], re.Pattern[str]]]] = {}
    for keywords, pattern in given["rules"]:
        # Compiled on demand: compiling all takes a tenth of a second.
        compiled = functools.cache(functools.partial(re.compile, pattern))
        for keyword in keywords:
            rules.setdefault(keyword, []).append(compiled)
    return rules
