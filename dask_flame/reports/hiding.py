"""What must not be shown of a call's arguments: secrets, by name and by looks (runner).

No rule finds them all. These are meant to hide too much rather than too little, and what they hide
is one argument's value on a page.
"""

from __future__ import annotations

import re
from typing import Any

#: In place of what is secret, or left out.
ELSE = "…"

#: Names of secrets, without what is between their words; and of those only for longer texts.
_SECRET = re.compile(
    r"password|passwd|passphrase|^pwd|pwd$|pass$|^pw$|^pin$|pincode|jwt|otp$|secret|credential"
    r"|authori[sz]ation|auth$|bearer|cookie|^private$"
    r"|(api|access|private|signing|encryption)key|token(?!i[sz])"
)
_KEY, _LONG = re.compile(r"keys?$"), 8
#: A user and a password in an address, what lets somebody in behind it, and known kinds of tokens.
_LOOKS = re.compile(
    r"(?P<login>://)[^/@\s]*(?=@)"
    r"|(?P<query>[?&;][\w.-]*(?i:token|key|secret|sig|signature|password|credential)=)[^&;\s]+"
    r"|(?P<said>(?<![\w.])(?i:password|passwd|pwd|passphrase|secret|token|api[_-]?key)\s*[=:]\s*)"
    r"(?:\"[^\"]*|'[^']*|[^\s;&,'\"]+)"
    r"|(?P<kind>\b(?:(?i:bearer|basic) |hf_|sk-|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|AKIA|eyJ))"
    r"[\w+/=.-]{12,}"
)


def secret(name: Any, value: Any) -> bool:
    """Whether something of this name is not to be shown.

    Examples
    --------
    >>> secret("HF_TOKEN", "hf_1"), secret("max_tokens", 512), secret("key", "a"), secret("key", 1)
    (True, False, False, False)
    """
    if type(name) is bytes:
        name = name.decode("latin1")
    if type(name) is not str:
        return False
    plain = re.sub(r"[^a-z]", "", name[:1_000].lower())
    found = _SECRET.search(plain)
    if found is not None:
        # How many tokens there may be is no secret.
        return found[0] != "token" or type(value) not in (bool, int, float, type(None))
    return bool(_KEY.search(plain)) and type(value) in (str, bytes) and len(value) >= _LONG


def veiled(text: str) -> str:
    """A text without what looks like a secret, wherever it is.

    Examples
    --------
    >>> veiled("postgres://me:hunter2@host/db")
    'postgres://…@host/db'
    >>> veiled("https://host/data?X-Signature=0123abcd&part=1")
    'https://host/data?X-Signature=…&part=1'
    >>> veiled("host=h user=u password=hunter2")
    'host=h user=u password=…'
    """
    return _LOOKS.sub(lambda found: next(filter(None, found.groups())) + ELSE, text)
