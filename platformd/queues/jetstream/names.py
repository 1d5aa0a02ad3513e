"""What our streams, consumers and subjects are called on a NATS.

JetStream's names have no dots, ours may; ``=`` stands for one, which ours never have. With a prefix a subject ``a.b``
is ``PREFIX.a.b`` there and a stream ``s`` is ``PREFIX~s``; ``~`` is in none of our names, so that each is told from
others.
"""

from __future__ import annotations

import re

from platformd.core.errors import InvalidInput
from platformd.model.subjects import MAX_SUBJECT_LENGTH

_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Names:
    """Translates.

    Args:
        prefix: as in ``NatsSettings``.

    Raises:
        InvalidInput: it is not one token of letters, digits, ``_`` and ``-``.
    """

    def __init__(self, prefix: str) -> None:
        if prefix and not _PREFIX.fullmatch(prefix):
            raise InvalidInput(
                f"{prefix!r} is not a prefix", subject="nats.prefix", hint="1 to 32 of A-Z a-z 0-9 _ -, without a dot"
            )
        self._stream_prefix = f"{prefix}~" if prefix else ""
        self._subject_prefix = f"{prefix}." if prefix else ""

    def stream(self, name: str) -> str:
        """There."""
        return self._stream_prefix + name.replace(".", "=")

    def our_stream(self, name: str) -> str | None:
        """Here; ``None`` for one of another site."""
        if not name.startswith(self._stream_prefix):
            return None
        ours = name[len(self._stream_prefix) :]
        return None if "~" in ours else ours.replace("=", ".")

    def consumer(self, name: str) -> str:
        """There."""
        return name.replace(".", "=")

    def our_consumer(self, name: str) -> str:
        """Here."""
        return name.replace("=", ".")

    def subject(self, subject: str) -> str:
        """There; also of a pattern.

        Raises:
            InvalidInput: it is too long with the prefix.
        """
        if len(self._subject_prefix) + len(subject) > MAX_SUBJECT_LENGTH:
            raise InvalidInput(
                f"with the prefix {self._subject_prefix!r} it is longer than {MAX_SUBJECT_LENGTH} characters",
                subject=subject,
            )
        return self._subject_prefix + subject

    def our_subject(self, subject: str) -> str:
        """Here."""
        return subject.removeprefix(self._subject_prefix)
