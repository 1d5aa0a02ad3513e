"""The demonstration, as its user runs it: real packets, generated ones, garbage, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from platformd.cli import demo_replay, demo_report
from platformd.cli.demo import FILTER, pipeline_document, stream_document
from platformd.cli.demo_daemon import private_daemon
from platformd.cli.demo_replay import Output, Sent, Source, open_source
from platformd.client.blocking import Client
from platformd.client.http import Target
from platformd.core.errors import InvalidInput, Unavailable
from platformd.core.processes import own_environment, own_module
from platformd.model.kinds import KINDS
from platformd.model.pipeline import PIPELINE, StageStatus
from platformd.model.stream import STREAM
from platformd.pipelines import ztf
from platformd.pipelines.expressions import Expression
from platformd.pipelines.rules import check_expressions
from tests.pipelines.packets import alert, container, read_all


def run(*arguments: str, temporary: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``platformd demo`` with a place of its own for temporary files."""
    return subprocess.run(
        own_module("platformd.cli.main", "demo", *arguments),
        capture_output=True,
        text=True,
        env=own_environment(os.environ | {"TMPDIR": str(temporary)} | (environ or {})),
        timeout=60,
        check=False,
    )


@pytest.fixture
def temporary() -> Any:
    """An empty directory with a short path; that it is empty again is the test of cleaning up."""
    with tempfile.TemporaryDirectory(prefix="pd") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


def test_packets_of_a_directory(tmp_path: Path, temporary: Path) -> None:
    """The accepted ids are what a plain loop selects; garbage and nulls are dead letters with their reason."""
    packets = list(ztf.packets(25, seed=2))
    for packet in packets[:20]:
        (tmp_path / f"{packet['candid']}.avro").write_bytes(ztf.encoded(packet))
    # One file of several packets, with another schema; one of them makes the expression fail.
    good, null = alert(5, rb=0.9, nbad=0.0, magpsf=18.0), alert(6, rb=None, nbad=0.0, magpsf=18.0)
    (tmp_path / "several.avro").write_bytes(container(good, null, alert(7, rb=0.1)))
    (tmp_path / "junk.avro").write_bytes(b"no packet at all")
    (tmp_path / "short.avro").write_bytes(ztf.encoded(packets[21])[:5000])
    done = run("--alerts", str(tmp_path), "--json", temporary=temporary)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # The one without a position is routed like those away from the plane.
    selected = [p["candid"] for p in packets[:20] if Expression(FILTER)(p, {})] + [5]
    assert report["accepted_ids"] == sorted(selected)
    assert report["packets"] == {
        "in": 25,
        "accepted": len(selected),
        "rejected": 25 - len(selected) - 3,
        "dead": 3,
        "duplicates": 0,
        "refused": 0,
    }
    assert sum(report["outputs"].values()) == len(selected)
    dead = {letter["file"] or letter["id"]: letter for letter in report["dead_letters"]}
    assert set(dead) == {"junk.avro", "short.avro", 6}
    assert "candidate.rb is null" in dead[6]["reason"]
    assert all(letter["stage"] == "filter" for letter in dead.values())
    assert [s["received"] for s in report["stages"]] == [25, len(selected), len(selected)]
    assert 0 < report["latency_seconds"]["p50"] <= report["latency_seconds"]["p99"]
    assert report["latency_seconds"]["samples"] == len(selected)


def test_generated_packets_as_a_table(temporary: Path) -> None:
    """Without ``--json`` it shows a table, alone on standard output; the user's own daemon has no say in it."""
    environ = {"PLATFORMD_SOCKET": "/nowhere/p.sock", "PLATFORMD_DAEMON_LOG_LEVEL": "no such level"}
    done = run("--count", "40", "--seed", "3", temporary=temporary, environ=environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    wanted = sum(Expression(FILTER)(p, {}) for p in ztf.packets(40, seed=3))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert next(line for line in lines if line[:1] == ["filter"])[2:6] == ["40", str(wanted), str(40 - wanted), "0"]
    assert next(line for line in lines if line[:1] == ["accepted"])[1] == str(wanted)
    assert ["packets", "in", "40"] in lines


def test_a_bad_filter_is_refused_with_its_place(temporary: Path) -> None:
    """The daemon refuses it when the pipeline is applied, and the demonstration ends with its error."""
    done = run("--filter", "candidate.rb >", "--json", temporary=temporary)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "line 1, column 15" in done.stderr


def start(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        own_module("platformd.cli.main", "demo", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(os.environ | {"TMPDIR": str(temporary)}),
    )


def test_keep_until_it_is_told_to_end(temporary: Path) -> None:
    """With ``--rate`` it is paced, with ``--filter`` it selects otherwise, with ``--keep`` it stays up."""
    began = time.monotonic()
    demo = start("--count", "10", "--rate", "20", "--filter", "true", "--keep", "--json", temporary=temporary)
    assert demo.stdout is not None
    assert demo.stderr is not None
    report = json.loads("".join(iter(demo.stdout.readline, "}\n")) + "}")
    assert time.monotonic() - began > report["seconds"] >= 9 / 20
    assert (len(report["accepted_ids"]), report["filter"]) == (10, "true")
    line = next(line for line in iter(demo.stderr.readline, "") if "tui" in line)
    socket = line.split()[2]
    family = psutil.Process(demo.pid).children(recursive=True)
    assert len(family) == 4
    with Client(Target(unix=socket)) as client:
        assert client.get("pipelines", "demo").status.state == "running"
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30)
    assert demo.returncode == 0
    assert not [p for p in family if p.is_running()]


def test_ended_in_the_middle(temporary: Path) -> None:
    """SIGTERM during the replay leaves no process and no directory."""
    demo = start("--count", "50", "--rate", "1", temporary=temporary)
    process = psutil.Process(demo.pid)
    deadline = time.monotonic() + 30
    while len(family := process.children(recursive=True)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=30)
    assert demo.returncode == 143
    assert not [p for p in family if p.is_running()]


def test_a_daemon_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    """The error has what the daemon said."""
    with pytest.raises(Unavailable, match=r"(?s)the daemon ended with exit code 2.*NO_SUCH_KEY"):
        with private_daemon(tmp_path, {"PLATFORMD_DAEMON_NO_SUCH_KEY": "1"}):
            pytest.fail("it started")


# -- the parts ---------------------------------------------------------------------------------------------


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    """There is nothing to replay, and that is said before anything is started."""
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="has no files"):
        open_source(tmp_path, 1, 0)


def test_files_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each packet has its id or a hash; what cannot be read is refused and the rest goes on."""
    (tmp_path / "a").write_bytes(container(alert(1), alert(2)))
    (tmp_path / "b").write_bytes(b"junk")
    (tmp_path / "c").write_bytes(b"x" * 5000)
    (tmp_path / "d").write_bytes(container(alert(None)))
    monkeypatch.setattr(demo_replay, "MAX_FILE", 4000)
    source = open_source(tmp_path, 0, 0)
    found = [(p.file, p.msg_id if p.identified else len(p.msg_id)) for p in source.packets]
    assert found == [("a", "1"), ("a", "2"), ("b", 32), ("d", 32)]
    assert source.refused == [("c", "has 5000 bytes; the limit is 4000")]
    assert [read_all(p.payload)[0]["candid"] for p in open_source(tmp_path, 0, 0).packets if p.file == "a"] == [1, 2]


def test_the_documents_are_valid() -> None:
    """The stream and the pipeline pass every check of their kinds."""
    import msgspec

    for kind, document in ((STREAM, stream_document()), (PIPELINE, pipeline_document(FILTER))):
        spec = msgspec.convert(document["spec"], kind.spec)
        assert [e for check in kind.checks for e in check(spec)] == []
    assert check_expressions(msgspec.convert(pipeline_document(FILTER)["spec"], PIPELINE.spec)) == []
    assert PIPELINE in KINDS


@pytest.mark.parametrize(
    ("values", "p50", "p99"), [([], None, None), ([3.0], 3.0, 3.0), ([float(i) for i in range(1, 101)], 50.0, 99.0)]
)
def test_percentiles(values: Sequence[float], p50: float | None, p99: float | None) -> None:
    """The nearest-rank method, which always gives a value that was measured."""
    assert (demo_report.percentile(values, 0.5), demo_report.percentile(values, 0.99)) == (p50, p99)


def test_tables_show_losses_and_no_escape_sequences() -> None:
    """Reasons are counted, and what a packet or a file name says cannot reach the terminal."""
    source = Source("dir", 3, (), refused=[("big.avro", "has 9 bytes; the limit is 4")])
    stages = [StageStatus(name="filter", type="filter", received=3, accepted=1, dead_lettered=2, busy_seconds=0.003)]
    letter = {"reason": "bad \x1b[31m[red]", "stage": "filter", "origin": "alerts:2", "id": None, "bytes": 4}
    dead = Output("alerts.dead", dead=True, dead_letters=[letter, dict(letter, origin="alerts:3")])
    out = Output("alerts.out", ids=["12", "x", "3"], latencies=[0.5])
    report = demo_report.document(source, "true", Sent(stored=3, files={2: "b.avro"}), stages, [out, dead], 1.5)
    assert report["accepted_ids"] == [3, 12, "x"]
    assert [d["file"] for d in report["dead_letters"]] == ["b.avro", None]
    assert report["outputs"] == {"alerts.out": 3}
    assert report["packets_per_second"] == 2.0
    assert report["stages"][0]["seconds_per_packet"] == 0.001
    text = io.StringIO()
    demo_report.print_tables(report, text)
    assert "\x1b" not in text.getvalue()
    assert "2 x bad" in text.getvalue()
    assert "[red] (such as b.avro)" in text.getvalue()
    assert "1 x has 9 bytes; the limit is 4 (such as big.avro)" in text.getvalue()
