"""Who we are for a NATS server: password, token, nkey or credentials, read from their files at every login."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from platformd.core.errors import InvalidInput, Unsupported
from platformd.core.settings_engines import NatsSettings

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")
_USER_PREFIX = 20 << 3
"""The first byte of a user's public key, which makes it begin with ``U`` (https://github.com/nats-io/nkeys)."""
_SEED_BYTES = 36
"""Two of prefix, 32 of seed, two of checksum."""


def credentials(settings: NatsSettings, nonce: str) -> dict[str, Any]:
    """The members of CONNECT that say who we are. Reads files.

    Args:
        settings: which files.
        nonce: what the server wants to be signed; empty: nothing.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
        Unsupported: a key is asked for and the package that signs is not installed.
    """
    found: dict[str, Any] = {}
    if settings.user:
        found["user"] = settings.user
        found["pass"] = _first_line(settings.password_file) if settings.password_file else ""
    if settings.token_file:
        found["auth_token"] = _first_line(settings.token_file)
    if settings.nkey_file:
        seed = _first_line(settings.nkey_file)
        found["nkey"], found["sig"] = _sign(seed, nonce, settings.nkey_file)
    if settings.creds_file:
        text = _read(settings.creds_file)
        jwt, seed_block = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed_block is None:
            raise InvalidInput("has no user JWT and seed", subject=settings.creds_file, hint="make it with nsc or nk")
        found["jwt"] = jwt.group(1)
        found["sig"] = _sign(seed_block.group(1), nonce, settings.creds_file)[1]
    return found


def _sign(seed: str, nonce: str, path: str) -> tuple[str, str]:
    """The public key of ``seed``, and its signature of ``nonce``."""
    try:  # an extra: most sites need no keys
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise Unsupported(
            "signing with an nkey needs the package cryptography", subject=path, hint="pip install 'platformd[nats]'"
        ) from error
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error as error:
        raise InvalidInput(f"is not an nkey's seed: {error}", subject=path) from error
    if len(raw) != _SEED_BYTES or _checksum(raw[:-2]) != raw[-2:] or not seed.startswith("SU"):
        raise InvalidInput("is not the seed of a user's nkey", subject=path, hint="it begins with SU")
    key = Ed25519PrivateKey.from_private_bytes(raw[2:34])
    public = bytes([_USER_PREFIX]) + key.public_key().public_bytes_raw()
    name = base64.b32encode(public + _checksum(public)).decode().rstrip("=")
    return name, base64.urlsafe_b64encode(key.sign(nonce.encode())).decode().rstrip("=")


def _checksum(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def _first_line(path: str) -> str:
    return (_read(path).splitlines() or [""])[0].strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidInput(f"cannot be read: {reason}", subject=path) from error
