"""Recognize secrets in texts by name, by form, or as known values (driver, runner).

No rule finds all of them. These rules prefer to hide too much: a false match only hides the value
of one argument on a page.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable
from typing import Any

from dask_flame.core import tokens

#: Number of characters of a name that are examined.
_LONGEST = 100
#: Replaces secrets and omitted parts.
ELSE = "…"

#: Names of secrets, with only their letters.
_SECRET = re.compile(
    r"password|passwd|passwrd|passphrase|passcode|^pwd|pwd$|pswd|psw$|pass$|^pw$|^pin$|pincode|jwt|otp$"
    r"|secret|credential|creds?$|^creds|authori[sz]ation|auth$|bearer|cookie|^private$|mnemonic"
    r"|sessionid|sessid|csrf|xsrf|(connection|conn)(string|str|uri|url)|jdbcurl|cardnumber"
    r"|(api|access|private|signing|encryption|license|account|storage)key|token(?!i[sz])"
)
#: Short names of secrets that occur inside other words: matched only as a whole word of a name.
_WORDS = frozenset(
    {"cred", "creds", "cvc", "cvv", "dsn", "pat", "psk", "pwd", "sas", "ssn", "totp"}
)
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Names of secrets, if the value has at least `_LONG` characters.
_KEY, _LONG = re.compile(r"keys?$"), 8
#: Names of values that look random but are not secret.
_HASH = re.compile(
    r"sha\d*$|hash$|digest|checksum|md5|etag|revision|^rev$|commit|fingerprint|^uuid|uuid$|^id$|_id$"
)

#: A user and password in a URL. If both are present, the password may contain @ or /.
_LOGIN = re.compile(
    r"(?<=://)(?:[^\s/@:]*:\S*|[^/@\s]+)(?=@)|(?<![\w./-])(?<=\b)(?P<user>[\w.%+-]+:)[^\s:/@]{3,}(?=@\w)"
)
#: Most texts: a word, or a few, which cannot contain a secret.
_WORDY = re.compile(r"[a-z]{0,19}|.{0,4}|(?:[A-Z]?[a-z]{1,12}[ ,.]{1,2}){1,100}")
#: Query parameters of a URL that grant access.
_QUERY = re.compile(
    r"(?P<shown>[?&;#][\w.-]*(?i:token|key|secret|sig|signature|password|credential|code)=)[^&;#\s]+"
)
#: A name and its value, as in JSON, environments and command lines.
_PAIR = re.compile(
    r"(?P<shown>(?<![\w.])(?P<name>[A-Za-z_][\w.-]{1,60})(?:\\*[\"'])?\s{0,3}(?:=>|:=|[=:])\s{0,3}"
    r"|(?<![\w-])--?(?P<option>[A-Za-z][\w-]{1,60})[ \t]+(?!-))"
    r"(?P<value>(?P<quote>\\*[\"'])(?:(?!(?P=quote))(?:\\.|.))*"
    r"|(?:(?i:bearer|basic|digest|token|negotiate|apikey)[ \t]+)?[^\s&\"'][^\s&;\"']*)",
    re.DOTALL,
)
_HEADER = re.compile(
    r"(?P<shown>\b(?i:bearer)[ \t]+)[^\s,;\"']{4,}"
    r"|(?P<basic>\b(?i:basic)[ \t]+)(?=[\w+/]*[A-Z0-9=])[\w+/]{6,}={0,2}"
)
#: A PEM key, even without its end, or its base64 body, which begins as ASN.1 does.
_PEM = re.compile(
    r"-----BEGIN.*?(?:-----END[^-]*-----|$)|\bMI[IGEHC][A-Za-z0-9+/](?:[A-Za-z0-9+/=]|\s|\\n){36,}",
    re.DOTALL,
)
#: Prefixes of known tokens, for tokens that are too short for the rules or not in them.
_PREFIX = re.compile(
    r"(?P<shown>(?<![A-Za-z0-9])(?:hf_|(?:[srp]k|whsec)_(?:live_|test_)?(?=\w*\d)|gh[a-z]_|github_pat_"
    r"|glpat-|xox[a-z]-|xapp-|eyJ|AIza|ya29\.|GOCSPX-|SG\.))[\w+/=.-]{8,}"
    r"|(?P<other>(?<![A-Za-z0-9])(?:sk-|npm_|pypi-|dapi|dop_v1_|shp[a-z]{2}_))"
    r"(?=[\w+/=.-]*[A-Z0-9])[\w+/=.-]{12,}"
    r"|(?P<aws>\b(?:AKIA|ASIA|ABIA|ACCA))[A-Z0-9]{8,}"
)


def secret(name: Any, value: Any) -> bool:
    """Return whether the value of something with this name must be hidden.

    Examples
    --------
    >>> secret("HF_TOKEN", "hf_1"), secret("max_tokens", 512), secret("key", "a"), secret("key", 1)
    (True, False, False, False)
    """
    if type(name) is bytes:
        name = name.decode("latin1")
    if type(name) is not str:
        return False
    kind = _kind(name[:_LONGEST])
    if kind is _Kind.KEY:
        return type(value) in (str, bytes) and len(value) >= _LONG
    if kind is _Kind.TOKEN:
        # A number of tokens is not a secret.
        return type(value) not in (bool, int, float, type(None))
    return kind is _Kind.SECRET or (kind is _Kind.WORD and type(value) is not bool)


class _Kind(enum.Enum):
    """The meaning of a name for its value."""

    NOTHING, SECRET, TOKEN, WORD, KEY = range(5)


# Cached: calls of one function have the same argument names.
@functools.lru_cache(maxsize=1_000)
def _kind(name: str) -> _Kind:
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain in _WORDS or any(word.lower() in _WORDS for word in _SPLIT.findall(name)):
        return _Kind.WORD
    found = _SECRET.search(plain)
    if found is not None:
        return _Kind.TOKEN if found[0] == "token" else _Kind.SECRET
    return _Kind.KEY if _KEY.search(plain) else _Kind.NOTHING


@functools.lru_cache(maxsize=1_000)
def names_hash(name: str) -> bool:
    """Return whether values with this name may look random without being secret.

    Examples
    --------
    >>> names_hash("revision"), names_hash("run_id"), names_hash("password_hash")
    (True, True, False)
    """
    return bool(_HASH.search(name.lower())) and not secret(name, "")


#: Values that are secret, whatever their form; the oldest first.
_known: dict[str, None] = {}
#: Minimum length of such a value, as a shorter one may occur in other texts by chance; and the
#: number of values that are kept.
_TELLING, _MOST = 8, 1_000


def hide(values: Iterable[str]) -> None:
    """Replace these values in this process's texts from now on, unless they are short."""
    for value in values:
        for form in {value, repr(value)[1:-1]}:
            if len(form) >= _TELLING:
                _known.pop(form, None)
                _known[form] = None
    while len(_known) > _MOST:
        del _known[next(iter(_known))]


def without_known(text: str) -> str:
    """Return a text without the values that were given to :func:`hide`."""
    if _known:
        # The longest first: one may be part of another.
        for value in sorted((v for v in tuple(_known) if v in text), key=len, reverse=True):
            text = text.replace(value, ELSE)
    return text


def veiled(text: str, *, random: bool = True) -> str:
    """Return a text with everything that looks like a secret replaced.

    Parameters
    ----------
    text : str
    random : bool
        Whether to treat random-looking texts as secrets.

    Examples
    --------
    >>> veiled("postgres://me:hunter2@host/db")
    'postgres://…@host/db'
    >>> veiled("https://host/data?X-Signature=0123abcd&part=1")
    'https://host/data?X-Signature=…&part=1'
    >>> veiled("host=h user=u password=hunter2")
    'host=h user=u password=…'
    """
    text = without_known(text)
    if _WORDY.fullmatch(text):
        return text
    if "-----" in text or "MI" in text:
        text = _PEM.sub(ELSE, text)
    if "@" in text:
        text = _LOGIN.sub(lambda found: (found["user"] or "") + ELSE, text)
    if "=" in text or ":" in text or "-" in text:
        text = _QUERY.sub(_after, text) if "=" in text else text
        text = _PAIR.sub(_after_secret, text)
    text = _PREFIX.sub(_after, _HEADER.sub(_after, text))
    text = _without(text, [*tokens.known(text)])
    return _without(text, [*tokens.random(text, _is_secret)]) if random else text


def _after(found: re.Match[str]) -> str:
    return f"{next(filter(None, found.groups()))}{ELSE}"


def _after_secret(found: re.Match[str]) -> str:
    name = found["name"] or found["option"]
    if not secret(name, found["value"]):
        return _again(found)
    # The opening quotation mark also ends the value: the text after it remains.
    return found["shown"] + (found["quote"] or "") + ELSE


def _again(found: re.Match[str]) -> str:
    """Return a pair that is not secret by its name, with pairs inside its value redacted.

    JSON inside JSON is an example.
    """
    value = found["value"]
    return found["shown"] + (_PAIR.sub(_after_secret, value) if len(value) > 5 else value)


def _is_secret(name: str) -> bool:
    return secret(name, "0" * _LONG)


def _without(text: str, places: list[tuple[int, int]]) -> str:
    if not places:
        return text
    parts, at = [], 0
    for start, end in sorted(places):
        if start >= at:
            parts += [text[at:start], ELSE]
        at = max(at, end)
    return "".join((*parts, text[at:]))
