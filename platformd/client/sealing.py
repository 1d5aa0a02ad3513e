"""TLS to the control API: our side of it, and what is wrong when it does not come about."""

from __future__ import annotations

import ssl
from typing import Final

from platformd.client.target import Target
from platformd.core.errors import InvalidInput, PlatformError, Unauthorized
from platformd.core.tls import client_context

_OURS: Final = {
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "UNKNOWN_CA": "the daemon does not know the authority that signed our certificate",
    "CERTIFICATE_REVOKED": "our certificate is revoked",
    "BAD_CERTIFICATE": "the daemon refuses our certificate",
    "CERTIFICATE_REQUIRED": "the daemon asks for a certificate, and we have none",
}


def context_for(target: Target) -> ssl.SSLContext:
    """What our side of TLS is. Reads the files that the target's credentials name.

    Raises:
        InvalidInput: a file cannot be used.
    """
    own = target.credentials
    context = client_context(own.ca_file, own.cert_file, own.key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def refused(target: Target, error: ssl.SSLError) -> PlatformError:
    """Why TLS did not come about, in words that say whose fault it is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message or str(error)
        hint = f"name the authority that signed it instead of {target.credentials.ca_file or 'the system authorities'}"
        if "mismatch" in said:
            hint = "use the name that the certificate is for"
        elif "expired" in said or "not yet valid" in said:
            hint = "renew it there (http.cert_file), or look at this machine's clock"
        return InvalidInput(f"the daemon's certificate is not good: {said}", subject=str(target), hint=hint)
    reason = error.reason or ""
    for alert, meaning in _OURS.items():
        if reason.endswith(alert):
            return Unauthorized(meaning, subject=str(target), hint="http.client_ca_file there names who may sign it")
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        hint = f"write http://{target.authority}, if it is on this machine"
        return InvalidInput("what is spoken there is not TLS", subject=str(target), hint=hint)
    return Unauthorized(f"no TLS came about: {reason or error}", subject=str(target))
