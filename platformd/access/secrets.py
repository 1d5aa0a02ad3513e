"""What a token looks like: ``pdt_ID_SECRET``.

::

    pdt_     4   says what it is, so that scanners of repositories and logs find one that leaked
    ID      10   letters and digits; which token it is. No secret
    _        1
    SECRET  49   32 random bytes as 43 letters and digits, then 6 of a CRC-32 over all before it: a scanner can tell a
                 token from what only looks like one, and a token that was cut short is refused without a look

The secret has 256 bits of the kernel's randomness, so its plain SHA-256 can be stored: there is nothing to guess that a
slow hash would have to protect, as there is in passwords that people choose, and each request is checked in
microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "pdt_"
ID_LENGTH: Final = 10
SECRET_BYTES: Final = 32
_SECRET_LENGTH: Final = 43
_CHECK_LENGTH: Final = 6
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

PATTERN: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{ID_LENGTH}}}_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECK_LENGTH}}}")
"""Every token matches it."""


def new_token(random_bytes: Callable[[int], bytes]) -> tuple[str, str]:
    """A new token's id, and all of it."""
    token_id = _base62(int.from_bytes(random_bytes(8), "big"), ID_LENGTH)[-ID_LENGTH:]
    body = f"{PREFIX}{token_id}_{_base62(int.from_bytes(random_bytes(SECRET_BYTES), 'big'), _SECRET_LENGTH)}"
    return token_id, body + _check(body)


def token_id(secret: str) -> str | None:
    """The id in a token; ``None`` if it cannot be one, by its form or its checksum."""
    if PATTERN.fullmatch(secret) is None or _check(secret[:-_CHECK_LENGTH]) != secret[-_CHECK_LENGTH:]:
        return None
    return secret[len(PREFIX) : len(PREFIX) + ID_LENGTH]


def digest(secret: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def matches(secret: str, stored: bytes) -> bool:
    """Whether ``stored`` is of ``secret``, in a time that says nothing."""
    return hmac.compare_digest(digest(secret), stored)


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    while number:
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits)).rjust(length, "0")
