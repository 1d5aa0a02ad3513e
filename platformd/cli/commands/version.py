"""``platformd version``."""

from __future__ import annotations

import sys

import click

from platformd import __version__
from platformd.cli.options import examples, output_option


@click.command(epilog=examples("platformd version", "platformd version -o json"))
@output_option("table", "json", "yaml")
def command(output: str) -> None:
    """Print the version of this program. The daemon's is in `platformd status`."""
    from platformd.cli.output import echo, print_document

    document = {"name": "platformd", "version": __version__, "python": sys.version.split()[0]}
    if output == "table":
        echo(f"platformd {__version__}")
    else:
        print_document(document, output)
