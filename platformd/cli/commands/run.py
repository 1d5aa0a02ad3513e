"""``platformd run``: the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from platformd.cli.options import Session, examples


@click.command(
    epilog=examples(
        "platformd run",
        "platformd run -c /etc/platformd/platformd.toml",
        "platformd run --state-dir ./state --http 127.0.0.1:8080 --log-level debug",
    )
)
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings, TOML. The environment (PLATFORMD_SECTION_KEY) and flags win over it.",
)
@click.option("--state-dir", metavar="DIR", help="Where all state lives.")
@click.option("--socket", metavar="PATH", help="The control API's Unix socket.")
@click.option("--http", metavar="HOST:PORT", help="Serve the control API here too (loopback only).")
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), help="The least severe record.")
@click.pass_obj
def command(
    session: Session,
    config: Path | None,
    state_dir: str | None,
    socket: str | None,
    http: str | None,
    log_level: str | None,
) -> int:
    """Run the daemon until SIGTERM or Ctrl-C."""
    from platformd.core.settings import load

    daemon = {"state_dir": state_dir, "socket": socket or session.socket, "log_level": log_level}
    overrides = {
        "daemon": {key: value for key, value in daemon.items() if value is not None},
        "http": {} if http is None else {"listen": http},
    }
    settings = load(config, session.environ, overrides)
    from platformd.daemon import main

    return main(settings)
