"""``platformd api``: any request to the control API, with this command's own access."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import Session, change_options, connection_options, examples, output_option, tenant_option

if TYPE_CHECKING:
    from platformd.client.http import Head, Request

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@click.command(
    epilog=examples(
        "platformd api /status",
        "platformd api GET streams/alerts -o yaml",
        "platformd api streams -q label=team=a -q limit=10 -o jsonpath='$.items[*].name'",
        'platformd api PATCH streams/alerts -d \'{"spec": {"max_age": "7d"}}\' --dry-run',
        "platformd api POST streams -d @stream.json -H 'Idempotency-Key: 4711'",
        "platformd api 'watch?kinds=streams&watch'   # server-sent events, as they come",
    )
)
@click.argument("words", nargs=-1, required=True, metavar="[METHOD] PATH")
@click.option("-d", "--data", metavar="TEXT|@FILE|@-", help="The body: text, a file's or standard input's content.")
@click.option("-q", "--query", "queries", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header; may be repeated.")
@click.option("-i", "--include", is_flag=True, help="Print the status and the headers first.")
@change_options
@tenant_option
@connection_options
@output_option("raw", "json", "yaml")
@click.pass_obj
def command(
    session: Session,
    words: Sequence[str],
    data: str | None,
    queries: Sequence[str],
    headers: Sequence[str],
    include: bool,
    dry_run: bool,
    tenant: str,
    output: str,
) -> None:
    """Send any request and print the answer.

    PATH without a leading slash is below /v1 and the tenant: `streams/alerts`. METHOD is GET, or POST with --data. What
    the daemon refuses is an error like any other, with its exit code.
    """
    request = _request(words, data, queries, headers, tenant)
    if dry_run:
        request = _dry(request)
    if output == "raw":
        _raw(session, request, include=include)
    else:
        _document(session, request, output, include=include)


def _request(
    words: Sequence[str], data: str | None, queries: Sequence[str], headers: Sequence[str], tenant: str
) -> Request:
    from platformd.client.control import MERGE_PATCH
    from platformd.client.http import make_request
    from platformd.core.errors import InvalidInput

    if len(words) > 2 or (len(words) == 2 and words[0].upper() not in METHODS):
        raise InvalidInput("is not [METHOD] PATH", subject=" ".join(words), hint=f"methods: {', '.join(METHODS)}")
    method = words[0].upper() if len(words) == 2 else "GET" if data is None else "POST"
    path, mark, given = words[-1].partition("?")
    if not path.startswith("/"):
        path = ("/v1/" if tenant == "default" else f"/v1/tenants/{tenant}/") + path
    query = _pairs([one for one in given.split("&") if one] + [*queries], "=") if mark or queries else {}
    sent = {name.lower(): value for name, value in _pairs(headers, ":").items()}
    body = None if data is None else _body(data)
    kind = MERGE_PATCH if method == "PATCH" else "application/json"
    return make_request(method, path, query=query, body=body, content_type=kind, headers=sent)


def _pairs(words: Sequence[str], sign: str) -> dict[str, str]:
    from platformd.core.errors import InvalidInput

    found: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(sign)
        if not name or (not separator and sign == ":"):
            raise InvalidInput(f"is not NAME{sign}VALUE", subject=word)
        if name.strip() in found:
            raise InvalidInput("is there twice", subject=name.strip())
        found[name.strip()] = value.strip()
    return found


def _body(data: str) -> bytes:
    if not data.startswith("@"):
        return data.encode()
    from platformd.cli.kv_changes import read_input

    return read_input(data[1:])


def _dry(request: Request) -> Request:
    from dataclasses import replace

    return replace(request, path=f"{request.path}{'&' if '?' in request.path else '?'}dry_run=true")


def _raw(session: Session, request: Request, *, include: bool) -> None:
    """The answer, byte for byte and as it comes; JSON gets lines if a person reads it."""
    import msgspec

    from platformd.client.http import Head

    out, pieces = sys.stdout.buffer, []
    pretty = False
    for part in session.client.stream(request):
        if isinstance(part, Head):
            pretty = sys.stdout.isatty() and part.media_type.endswith("json")
            if include:
                _print_head(part)
        elif pretty:
            pieces.append(part)
        else:
            out.write(part)
            out.flush()
    if pieces:
        from platformd.cli.output import echo, safe_lines

        echo(safe_lines(msgspec.json.format(b"".join(pieces), indent=2).decode()))


def _document(session: Session, request: Request, output: str, *, include: bool) -> None:
    from platformd.cli.output import as_yaml, echo, print_json
    from platformd.client.http import Head

    response = session.client.send(request).check()
    if include:
        _print_head(Head(response.status, response.headers))
    document: Any = response.json()
    if output == "yaml":
        echo(as_yaml(document["items"] if _is_listing(document) else [document]))
    else:
        print_json(document)


def _is_listing(document: Any) -> bool:
    return isinstance(document, Mapping) and isinstance(document.get("items"), list)


def _print_head(head: Head) -> None:
    from http import HTTPStatus

    from platformd.cli.output import echo, safe

    echo(f"HTTP/1.1 {head.status} {HTTPStatus(head.status).phrase}")
    for name, value in head.headers.items():
        echo(safe(f"{name}: {value}"))
    echo("")
    sys.stdout.flush()
