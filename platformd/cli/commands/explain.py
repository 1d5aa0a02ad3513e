"""``platformd explain``: what a kind is, and what its fields mean."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from platformd.cli.options import complete_kind, examples, output_option


def complete_path(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Kinds, then their fields, dot by dot."""
    if "." not in incomplete:
        return [CompletionItem(item.value, help=item.help) for item in complete_kind(context, parameter, incomplete)]
    from platformd.cli.explaining import fields_of
    from platformd.core.errors import NotFound
    from platformd.model.describing import explain_path
    from platformd.model.kinds import find_kind

    word, _, path = incomplete.partition(".")
    parent, _, begun = path.rpartition(".")
    try:
        schema = explain_path(find_kind(word), parent)
    except NotFound:
        return []
    base = f"{word}.{parent}." if parent else f"{word}."
    return [CompletionItem(base + name) for name in fields_of(schema, schema["$defs"]) if name.startswith(begun)]


@click.command(
    epilog=examples(
        "platformd explain stream",
        "platformd explain streams.spec.max_age",
        "platformd explain pipeline.spec --recursive",
        "platformd explain pipeline.spec.stages -o json",
        "platformd explain stream -o jsonpath=.example > stream.json",
    )
)
@click.argument("what", metavar="KIND[.PATH]", required=False, shell_complete=complete_path)
@click.option("-r", "--recursive", is_flag=True, help="Also the fields of fields.")
@output_option("table", "json", "yaml")
def command(what: str | None, recursive: bool, output: str) -> None:
    """Say what a kind is for, what its fields mean, which states it has and what it can be told to do.

    Without KIND: all kinds, a line each. Needs no daemon.
    """
    from platformd.cli.explaining import kind_lines, path_lines
    from platformd.cli.output import echo, print_document, print_json, table_of
    from platformd.model.describing import describe_kind, explain_path
    from platformd.model.kinds import KINDS, find_kind

    if what is None:
        if output != "table":
            print_json({"items": [describe_kind(kind) for kind in KINDS]})
            return
        rows = [[kind.plural, ",".join(kind.aliases) or "<none>", kind.summary] for kind in KINDS]
        for line in table_of(("NAME", "SHORT", "WHAT")).lines(rows):
            echo(line)
        return
    word, _, path = what.partition(".")
    kind = find_kind(word)
    document = explain_path(kind, path) if path else describe_kind(kind)
    if output != "table":
        print_document(document, output)
        return
    lines = (
        path_lines(kind.singular, path, document, recursive=recursive)
        if path
        else kind_lines(document, recursive=recursive)
    )
    for line in lines:
        echo(line)
