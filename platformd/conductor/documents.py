"""From documents to resources and back: decoding with complete validation, storage form, merging.

A document is what people and programs send: builtin types. What the server owns (uid, revision,
status, …) may be in it, as it was read, and is ignored, so that get, edit and apply work together.
"""

from __future__ import annotations

from typing import Any

import msgspec

from platformd.conductor.validation import validate
from platformd.core.errors import Corrupted, FieldError, Unprocessable
from platformd.model.kind import Check, Kind
from platformd.model.resource import DEFAULT_TENANT, SERVER_OWNED, AnyResource, Name, Owner

_USERS: dict[str, Any] = {
    "name": Name,
    "tenant": Name,
    "labels": dict[str, str],
    "annotations": dict[str, str],
    "owner": Owner | None,
}


def decode_document(
    kind: Kind, document: Any, *, name: str | None, tenant: str, checks: tuple[Check, ...]
) -> AnyResource:
    """A resource with nothing but what the user decides.

    Args:
        kind: what the document must be.
        document: builtin types.
        name: the name from elsewhere (a URL), which the document may leave out but not contradict.
        tenant: likewise.
        checks: rules over the whole spec, run when the types are right.

    Raises:
        Unprocessable: ``errors`` has everything that is wrong.
    """
    subject = f"{kind.singular}/{name or (document.get('name') if isinstance(document, dict) else None) or '?'}"
    if not isinstance(document, dict):
        raise Unprocessable("is not an object", subject=subject, hint="send one JSON object with name and spec")
    errors: list[FieldError] = []
    members: dict[str, Any] = {"kind": kind.name}
    _take_identity(kind, document, {"name": name, "tenant": tenant}, members, errors)
    for member, wanted in _USERS.items():
        if member in document and member not in members:
            value, wrong = validate(document[member], wanted, member)
            errors += wrong
            members[member] = value
    known = {*_USERS, "kind", "spec", *SERVER_OWNED}
    errors += [
        FieldError(path=str(member), message="is not a known field", hint="what you want goes into spec")
        for member in document
        if member not in known
    ]
    spec, wrong = validate(document.get("spec", {}), kind.spec, "spec")
    errors += wrong
    if spec is not None:
        errors += [e for check in checks for e in check(spec)]
    if errors:
        raise Unprocessable(f"is not a valid {kind.name}", subject=subject, errors=tuple(errors))
    resource: AnyResource = kind.resource_type(**members, spec=spec, status=kind.status())
    return resource


def _take_identity(
    kind: Kind,
    document: dict[str, Any],
    given: dict[str, str | None],
    members: dict[str, Any],
    errors: list[FieldError],
) -> None:
    """Kind, name and tenant: from the document or from elsewhere, and never two different ones."""
    if document.get("kind", kind.name) != kind.name:
        errors.append(FieldError(path="kind", message=f"is {document['kind']!r}; this is for {kind.name}"))
    for member, elsewhere in given.items():
        default = DEFAULT_TENANT if member == "tenant" else None
        inside = document.get(member)
        if inside is not None and elsewhere is not None and inside != elsewhere:
            errors.append(FieldError(path=member, message=f"is {inside!r}, but the request says {elsewhere!r}"))
            continue
        value = elsewhere if inside is None else inside
        if value is None and default is None:
            errors.append(FieldError(path=member, message="is required and missing"))
            continue
        members[member], wrong = validate(value if value is not None else default, Name, member)
        errors += wrong


def to_document(resource: AnyResource) -> dict[str, Any]:
    """The resource as builtin types, as it is sent to clients."""
    document: dict[str, Any] = msgspec.to_builtins(resource)
    return document


def to_stored(resource: AnyResource) -> bytes:
    """The stored form: JSON without the revision, which is the Store's to say."""
    return msgspec.json.encode(msgspec.structs.replace(resource, revision=0))


def from_stored(kind: Kind, value: bytes, revision: int) -> AnyResource:
    """The resource that was stored.

    Raises:
        Corrupted: the value is not one; it was written by something else or by a newer version.
    """
    try:
        resource = kind.from_json(value)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Corrupted(
            f"a stored {kind.name} cannot be read: {error}",
            subject=kind.singular,
            hint="it was written by a newer platformd or by hand; restore it from a backup or run the newer one",
        ) from error
    return msgspec.structs.replace(resource, revision=revision)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396): members replace, objects merge, ``null`` removes."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
