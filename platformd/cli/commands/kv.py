"""``platformd kv``: keys of the coordination store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from platformd.cli.options import (
    Session,
    change_options,
    connection_options,
    examples,
    live,
    output_option,
    reason_option,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from platformd.client.blocking import Client

NOT_DONE = 5
"""Exit code when the compares of a transaction did not hold."""


def complete_key(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys and directories that begin so."""
    from platformd.client import kv

    directory = incomplete[: incomplete.rfind("/") + 1]

    def ask(client: Client, _tenant: str) -> list[str]:
        page = kv.read_document(client.send(kv.list_page(directory.encode(), delimiter="/")))
        found = [str(item["key"]) for item in page["items"] if "key" in item]
        return sorted(found + [str(one) for one in page["prefixes"]])

    return live(context, ask, incomplete)


@click.group(
    epilog=examples(
        'platformd kv put config/site \'{"name": "here"}\'',
        "platformd kv get config/site",
        "platformd kv ls config/",
        "platformd kv watch config/",
        "platformd kv export config/ > config.jsonl",
    )
)
def command() -> None:
    """Read, write and follow keys of the coordination store.

    A key is any text; "/" has no meaning of its own, but `ls` shows what lies behind it as a directory.
    """


@command.command(
    epilog=examples(
        "platformd kv get config/site", "platformd kv get config/site -o json", "platformd kv get a --revision 42"
    )
)
@click.argument("key", shell_complete=complete_key)
@click.option("--revision", type=click.IntRange(min=1), metavar="N", help="As it was then.")
@connection_options
@output_option("raw", "json", "yaml", "table")
@click.pass_obj
def get(session: Session, key: str, revision: int | None, output: str) -> None:
    """Print the value of KEY, byte for byte, or with -o all that is known of it."""
    from platformd.cli.kv_output import one_key, print_keys, write_raw
    from platformd.client import kv

    wanted = one_key(key)
    if output == "raw":
        write_raw(session.client.send(kv.get(wanted, revision=revision or 0, raw=True)).check().body)
        return
    document = kv.read_document(session.client.send(kv.get(wanted, revision=revision or 0)))
    print_keys([document], output, single=True)


@command.command(
    epilog=examples(
        "platformd kv put greeting hello",
        "platformd kv put sites/a --file a.json --create",
        "date | platformd kv put heartbeat - --ttl 30s",
        "platformd kv put leader me --if-revision 42",
    )
)
@click.argument("key", shell_complete=complete_key)
@click.argument("value", required=False)
@click.option("-f", "--file", type=click.Path(allow_dash=True), metavar="FILE|-", help="Take the value from there.")
@click.option("--ttl", default="", metavar="DURATION", help="It goes by itself after this.")
@click.option("--lease", default="", metavar="ID", help="It goes with this lease.")
@click.option("--if-revision", type=click.IntRange(min=1), metavar="N", help="Only if it is at this revision.")
@click.option("--create", is_flag=True, help="Only if it is not there.")
@change_options
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def put(
    session: Session,
    key: str,
    value: str | None,
    file: str | None,
    ttl: str,
    lease: str,
    if_revision: int | None,
    create: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Set KEY to VALUE; - reads the value from standard input."""
    from platformd.cli.kv_changes import read_input
    from platformd.cli.kv_output import key_of, one_key, print_result, shown
    from platformd.client import kv
    from platformd.core.errors import InvalidInput

    if (value is None) == (file is None):
        raise InvalidInput("give the value or --file", subject="kv put", hint="platformd kv put KEY VALUE|-")
    if create and if_revision is not None:
        raise InvalidInput("--create and --if-revision exclude each other", subject="kv put")
    source = file if file is not None else value
    data = read_input(str(source)) if file is not None or value == "-" else key_of(str(value))
    wanted = one_key(key)
    if dry_run:
        from platformd.cli import rehearsing

        would = rehearsing.put_key(session, wanted, data, if_revision=if_revision, create=create)
        print_result(would, output, f"{shown(wanted)} {would['outcome']} (dry run)")
        return
    request = kv.put(wanted, data, ttl=ttl, lease=lease, expect_revision=if_revision, create=create)
    response = session.client.send(request)
    document = kv.read_document(response)
    outcome = "created" if response.status == 201 else "changed"
    print_result(document, output, f"{shown(wanted)} {outcome} (revision {document['mod_revision']})")


@command.command(
    name="del",
    epilog=examples(
        "platformd kv del config/site", "platformd kv del --prefix config/old/", "platformd kv del a --if-revision 42"
    ),
)
@click.argument("keys", nargs=-1, required=True, shell_complete=complete_key)
@click.option("--prefix", is_flag=True, help="All keys that begin so, in one revision.")
@click.option("--if-revision", type=click.IntRange(min=1), metavar="N", help="Only if it is at this revision.")
@change_options
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def delete(
    session: Session, keys: tuple[str, ...], prefix: bool, if_revision: int | None, dry_run: bool, output: str
) -> int:
    """Remove KEYS. What is not there is an error (3)."""
    from platformd.cli import rehearsing
    from platformd.cli.kv_output import key_of, one_key, print_result, shown
    from platformd.cli.main import report
    from platformd.client import kv
    from platformd.core.errors import InvalidInput, NotFound, PreconditionFailed

    if if_revision is not None and (prefix or len(keys) != 1):
        raise InvalidInput("is for one key", subject="--if-revision")
    codes = []
    for word in keys:
        wanted = key_of(word) if prefix else one_key(word)
        request = kv.delete_prefix(wanted) if prefix else kv.delete(wanted, expect_revision=if_revision)
        try:
            if not dry_run:
                document = kv.read_document(session.client.send(request))
            elif prefix:
                document = rehearsing.delete_prefix(session, wanted)
            else:
                document = rehearsing.delete_key(session, wanted, if_revision=if_revision)
        except (NotFound, PreconditionFailed) as error:
            codes.append(report(error, as_json=output == "json"))
            continue
        what = f"{shown(wanted)}*: {document['deleted']} keys" if prefix else shown(wanted)
        how = "dry run" if dry_run else f"revision {document['revision']}"
        print_result(document, output, f"{what} deleted ({how})")
    return codes[0] if codes else 0


@command.command(epilog=examples("platformd kv ls", "platformd kv ls config/", "platformd kv ls -r config/ -o table"))
@click.argument("prefix", default="", shell_complete=complete_key)
@click.option("-r", "--recursive", is_flag=True, help="Also what lies in directories.")
@connection_options
@output_option("name", "table", "json", "yaml")
@click.pass_obj
def ls(session: Session, prefix: str, recursive: bool, output: str) -> None:
    """List keys that begin with PREFIX; what goes on behind a further "/" is one line that ends in it."""
    from platformd.cli.kv_output import key_of, print_keys, shown
    from platformd.cli.output import echo
    from platformd.client import kv

    cursor, keys_only = None, output == "name" or not recursive
    found: list[dict[str, Any]] = []
    while True:
        page = kv.read_document(
            session.client.send(
                kv.list_page(key_of(prefix), cursor=cursor, keys_only=keys_only, delimiter="" if recursive else "/")
            )
        )
        # Each entry once, in the order of keys; a directory has nothing but its name.
        entries = page["items"] + [{"key": name} for name in page.get("prefixes", ())]
        entries.sort(key=lambda entry: kv.bytes_of(entry, "key") or b"")
        if output == "name":
            for entry in entries:
                echo(shown(kv.bytes_of(entry, "key") or b""))
        else:
            found += entries
        cursor = page.get("cursor")
        if cursor is None:
            break
    if output != "name":
        print_keys(found, output)


@command.command(
    epilog=examples(
        "platformd kv watch config/",
        "platformd kv watch leader --exact -o raw",
        "platformd kv watch '' --after 42 -o json",
    )
)
@click.argument("prefix", shell_complete=complete_key)
@click.option("--exact", is_flag=True, help="Only the key of that name.")
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="Also what changed after this revision.")
@click.option("--previous", is_flag=True, help="With -o json or yaml: also what was there before.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many changes.")
@connection_options
@output_option("table", "json", "yaml", "raw")
@click.pass_obj
def watch(
    session: Session, prefix: str, exact: bool, after: int | None, previous: bool, count: int | None, output: str
) -> None:
    """Follow keys that begin with PREFIX, from now on. A lost connection is taken up again without a gap."""
    from platformd.cli.kv_changes import ChangePrinter
    from platformd.cli.kv_output import key_of
    from platformd.cli.output import note
    from platformd.client.blocking import FIRST_DELAY

    def lost(error: Any, delay: float) -> None:
        if delay == FIRST_DELAY:  # once for each loss, however long it lasts
            note(f"the watch was lost ({error.message}); trying until it is back")

    show, seen = ChangePrinter(output), 0
    for change in session.client.watch_keys(key_of(prefix), exact=exact, after=after, previous=previous, on_lost=lost):
        show(change)
        seen += change.type != "bookmark"
        if seen == count:
            return


@command.command(
    epilog=examples(
        "platformd kv txn -f change.yaml",
        "platformd kv txn -f - -o json < change.json",
        "cat change.yaml",
        "    compares: [{key: a, target: version, operator: '==', operand: 0}]",
        "    then: [{op: put, key: a, value: first}, {op: delete, prefix: old/}]",
        "    else: [{op: get, key: a}]",
    )
)
@click.option(
    "-f", "--file", required=True, type=click.Path(allow_dash=True), metavar="FILE|-", help="The transaction."
)
@click.option("--previous", is_flag=True, help="Also say what was there before.")
@change_options
@connection_options
@output_option("yaml", "json")
@click.pass_obj
def txn(session: Session, file: str, previous: bool, dry_run: bool, output: str) -> int:
    """Do all or nothing: if all compares hold what stands in "then", otherwise what stands in "else".

    Exits with 5 when the compares did not hold.
    """
    from platformd.cli.documents import read_values
    from platformd.cli.kv_changes import read_input
    from platformd.cli.kv_output import print_result
    from platformd.client import kv
    from platformd.core.errors import InvalidInput

    documents = read_values(file, read_input(file))
    if len(documents) != 1 or not isinstance(documents[0][0], dict):
        raise InvalidInput("holds no transaction, or several", subject=file, hint="compares, then and else, as lists")
    if dry_run:
        from platformd.cli import rehearsing

        document = rehearsing.transaction(session, documents[0][0])
    else:
        document = kv.read_document(session.client.send(kv.txn(documents[0][0], previous=previous)))
    print_result(document, output, "")
    return 0 if document.get("succeeded") else NOT_DONE


@command.command(epilog=examples("platformd kv edit config/site", "EDITOR=nano platformd kv edit config/site"))
@click.argument("key", shell_complete=complete_key)
@reason_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def edit(session: Session, key: str, output: str) -> None:
    """Change the value of KEY in $VISUAL or $EDITOR; if somebody else changed it meanwhile, nothing is done (5)."""
    from platformd.cli.kv_changes import edit as edit_key
    from platformd.cli.kv_output import one_key, print_result, shown
    from platformd.cli.output import note

    wanted = one_key(key)
    document = edit_key(session, wanted)
    if document is None:
        note(f"{shown(wanted)} is as it was")
    else:
        outcome = "created" if document["version"] == 1 else "changed"
        print_result(document, output, f"{shown(wanted)} {outcome} (revision {document['mod_revision']})")


@command.command(
    epilog=examples("platformd kv export config/ > config.jsonl", "platformd kv export '' -o yaml > all.yaml")
)
@click.argument("prefix", shell_complete=complete_key)
@connection_options
@output_option("json", "yaml")
@click.pass_obj
def export(session: Session, prefix: str, output: str) -> None:
    """Print keys that begin with PREFIX with their values, all of one moment, one document a key."""
    from platformd.cli.kv_output import key_of
    from platformd.cli.kv_transfer import export as export_keys
    from platformd.cli.output import note

    exported = export_keys(session, key_of(prefix), output)
    note(f"{exported} keys")


@command.command(
    name="import",
    epilog=examples(
        "platformd kv import config.jsonl",
        "platformd kv import config.yaml --sync config/ --dry-run",
        "platformd kv export a/ --url http://other:7070 | platformd kv import -",
    ),
)
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE|-")
@click.option("--sync", metavar="PREFIX", help="Also delete keys that begin so and are not in FILE.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def import_(session: Session, file: str, sync: str | None, dry_run: bool, output: str) -> None:
    """Put all keys in FILE, as `platformd kv export` writes it, a hundred in a transaction."""
    from platformd.cli.kv_changes import read_input
    from platformd.cli.kv_output import key_of, print_result
    from platformd.cli.kv_transfer import import_ as import_keys

    prefix = None if sync is None else key_of(sync)
    done = import_keys(session, read_input(file), file, sync=prefix, dry_run=dry_run)
    line = f"{done.put} keys put, {done.deleted} deleted{' (dry run)' if dry_run else ''}"
    print_result({"put": done.put, "deleted": done.deleted, "dry_run": dry_run}, output, line)
