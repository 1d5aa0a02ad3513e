"""What a TLS client checks a server against, from the files that settings name."""

from __future__ import annotations

import ssl

from platformd.core.errors import InvalidInput


def client_context(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    """The system's authorities or those of ``ca_file``; with ``cert_file`` and ``key_file`` we show who we are.

    An empty name stands for no such file; without ``key_file`` the key is in ``cert_file``. Reads files.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
    """
    name = ca_file
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if cert_file:
            name = f"{cert_file}, {key_file}" if key_file else cert_file
            context.load_cert_chain(cert_file, key_file or None)
    except OSError as error:  # of which ssl.SSLError is one
        raise InvalidInput(f"cannot be used for TLS: {error.strerror or error}", subject=name) from error
    return context
