"""What a demonstration found: one document, and the same as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import IO, Any

from platformd.cli.demo_replay import Output, Sent, Source
from platformd.cli.output import safe
from platformd.core.quantities import format_seconds
from platformd.model.pipeline import StageStatus


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed (nearest rank)."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def document(
    source: Source,
    expression: str,
    sent: Sent,
    stages: Sequence[StageStatus],
    outputs: Sequence[Output],
    elapsed: float,
) -> dict[str, Any]:
    """Everything that is known of the run, as JSON types.

    Args:
        source: where packets came from.
        expression: the filter.
        sent: what was stored.
        stages: the stages' counts of this run alone.
        outputs: what came out.
        elapsed: seconds from the first packet's publishing until the last one was accounted for.
    """
    latencies = [latency for output in outputs for latency in output.latencies]
    dead = [letter | {"file": _file(letter, sent)} for output in outputs for letter in output.dead_letters]
    ids = [_number(identity) for output in outputs for identity in output.ids]
    return {
        "source": source.name,
        "filter": expression,
        "packets": {
            "in": sent.stored,
            "rejected": sum(s.rejected for s in stages),
            "accepted": stages[-1].accepted,
            "dead": sum(s.dead_lettered for s in stages),
            "duplicates": sent.duplicates + sum(s.duplicates for s in stages),
            "refused": len(source.refused),
        },
        "stages": [_stage(s) for s in stages],
        "outputs": {output.subject: len(output.ids) for output in outputs if not output.dead},
        "latency_seconds": {
            "p50": percentile(latencies, 0.50),
            "p99": percentile(latencies, 0.99),
            "max": max(latencies, default=None),
            "samples": len(latencies),
        },
        "seconds": round(elapsed, 3),
        "packets_per_second": round(sent.stored / elapsed, 1) if elapsed > 0 else None,
        "accepted_ids": sorted(ids, key=lambda i: (isinstance(i, str), i)),
        "dead_letters": dead,
        "refused": [{"file": name, "reason": reason} for name, reason in source.refused],
    }


def print_tables(report: dict[str, Any], out: IO[str]) -> None:
    """The document for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, highlight=False)
    stages = Table("stage", "type", title=None, box=None, pad_edge=False, header_style="bold")
    for title in ("received", "accepted", "rejected", "dead", "time/packet"):
        stages.add_column(title, justify="right")
    for stage in report["stages"]:
        counts = [str(stage[name]) for name in ("received", "accepted", "rejected", "dead_lettered")]
        stages.add_row(stage["name"], stage["type"], *counts, _time(stage["seconds_per_packet"]))
    packets, latency = report["packets"], report["latency_seconds"]
    facts = Table.grid(padding=(0, 3))
    facts.add_row("packets in", str(packets["in"]))
    facts.add_row("accepted", str(packets["accepted"]))
    for subject, count in report["outputs"].items():
        facts.add_row(f"  to {subject}", str(count))
    facts.add_row("rejected", str(packets["rejected"]))
    facts.add_row("dead letters", str(packets["dead"]))
    if packets["duplicates"]:
        facts.add_row("there already", str(packets["duplicates"]))
    facts.add_row("latency, publish to delivery", f"p50 {_time(latency['p50'])}   p99 {_time(latency['p99'])}")
    facts.add_row("packets per second", str(report["packets_per_second"]))
    console.print(f"[bold]{_escaped(report['source'])}[/]\n[italic]{_escaped(report['filter'])}[/]\n", soft_wrap=True)
    console.print(stages)
    console.print()
    console.print(facts)
    _print_losses(console, "dead letters", _reasons(report["dead_letters"]))
    _print_losses(console, "not sent", _reasons(report["refused"]))


def _print_losses(console: Any, title: str, lines: list[str]) -> None:
    if lines:
        console.print(f"\n[bold]{title}[/]")
        for line in lines:
            console.print(f"  {_escaped(line)}", soft_wrap=True)


def _reasons(entries: Iterable[dict[str, Any]], most: int = 10) -> list[str]:
    """A line for each reason, with how often and one example."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry["reason"], []).append(entry)
    lines = []
    for reason, same in sorted(found.items(), key=lambda item: -len(item[1])):
        example = same[0].get("file") or same[0].get("id") or same[0].get("origin")
        lines.append(f"{len(same)} x {reason} (such as {example})")
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} other reasons; see --json"]


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(safe(text))


def _time(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _stage(stage: StageStatus) -> dict[str, Any]:
    return {
        "name": stage.name,
        "type": stage.type,
        "received": stage.received,
        "accepted": stage.accepted,
        "rejected": stage.rejected,
        "dead_lettered": stage.dead_lettered,
        "duplicates": stage.duplicates,
        "busy_seconds": round(stage.busy_seconds, 6),
        "seconds_per_packet": round(stage.busy_seconds / stage.received, 9) if stage.received else None,
    }


def _file(letter: dict[str, Any], sent: Sent) -> str | None:
    sequence = str(letter["origin"]).rpartition(":")[2]
    return sent.files.get(int(sequence)) if letter["stage"] and sequence.isdigit() else None


def _number(identity: str) -> int | str:
    return int(identity) if identity.lstrip("-").isdigit() else identity
