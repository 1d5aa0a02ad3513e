"""Stages and messages: an envelope in, an outcome out, and how both travel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from platformd.model.pipeline import AnnotateStage, FilterStage, Route, RouteStage
from platformd.pipelines import messages
from platformd.pipelines.avro import PacketReader
from platformd.pipelines.projection import PacketError
from platformd.pipelines.stages import Accept, Dead, Envelope, Origin, Publish, Reject, build
from platformd.queues.contract import Delivery
from tests.pipelines.packets import alert, container


def envelope(packet: dict[str, Any], **annotations: Any) -> Envelope:
    return Envelope(id="7", packet=packet, annotations=annotations, origin=Origin(stream="alerts", sequence=3))


def delivery(payload: bytes, **changes: Any) -> Delivery:
    plain = Delivery(
        sequence=3, subject="s", payload=payload, msg_id="", headers={}, time_ns=5, append_time_ns=6, deliveries=1
    )
    return msgspec.structs.replace(plain, **changes)


def test_a_filter_accepts_rejects_or_fails() -> None:
    """The three ends of a filter."""
    step = build(FilterStage(name="f", expression="candidate.rb > 0.5"))
    good = envelope({"candidate": {"rb": 0.9}})
    assert step(good) == Accept(good)
    assert step(envelope({"candidate": {"rb": 0.1}})) == Reject()
    dead = step(envelope({"candidate": {"rb": None}}))
    assert isinstance(dead, Dead)
    assert dead.reason.startswith("the filter fails on it: ")
    assert dead.reason.endswith("(candidate.rb is null)")


def test_an_annotation_is_added_and_nothing_else_changes() -> None:
    """Annotations of earlier stages stay, and the packet is the same."""
    step = build(AnnotateStage(name="a", annotators=("galactic",)))
    before = envelope({"candidate": {"ra": 266.40510, "dec": -28.93617}}, earlier=1)
    outcome = step(before)
    assert isinstance(outcome, Accept)
    assert outcome.envelope.packet is before.packet
    assert set(outcome.envelope.annotations) == {"earlier", "galactic_longitude", "galactic_latitude"}
    assert before.annotations == {"earlier": 1}


def test_the_first_route_that_matches_wins() -> None:
    """Routes are tried in order; one without a condition takes all that is left."""
    routes = (Route(subject="a", when="annotations.b < 1.0"), Route(subject="b", when="annotations.b < 2.0"))
    step = build(RouteStage(name="r", routes=(*routes, Route(subject="rest"))))
    for value, subject in ((0.5, "a"), (1.5, "b"), (2.5, "rest")):
        outcome = step(envelope({}, b=value))
        assert isinstance(outcome, Publish)
        assert outcome.subject == subject
    assert build(RouteStage(name="r", routes=routes))(envelope({}, b=3.0)) == Reject()
    dead = step(envelope({}, b=None))
    assert isinstance(dead, Dead)
    assert "the condition of the route to a fails on it" in dead.reason
    assert "annotations.b is null" in dead.reason


def test_an_envelope_travels_unchanged() -> None:
    """What one stage publishes is what the next one opens, with the time of the first publishing."""
    reader = PacketReader({"candid", "candidate.rb", "when"})
    first = delivery(container(alert(7, rb=0.9)))
    opened = messages.open_record("alerts", first, reader, "candid")
    assert (opened.id, opened.origin) == ("7", Origin(stream="alerts", sequence=3))
    record = messages.output("pipeline.demo.next", opened, first)
    assert (record.subject, record.msg_id) == ("pipeline.demo.next", "7")
    second = delivery(record.payload, headers=record.headers, time_ns=99, sequence=1)
    again = messages.open_record("pipeline-demo", second, reader, "candid")
    assert again == opened
    assert again.packet["when"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert messages.output("out", again, second).headers[messages.PUBLISHED] == "5"


@pytest.mark.parametrize(
    ("packet", "id_field", "reason"),
    [
        (alert(None), "candid", "has no candid"),
        (alert(1), "candidate.rb", "has no candidate.rb"),
        (alert(1), "nothing.there", "has no nothing.there"),
        (alert(1, rb=0.1), "candidate", "has no candidate"),
    ],
)
def test_a_packet_without_identity_is_refused(packet: dict[str, Any], id_field: str, reason: str) -> None:
    """Nothing can keep such a packet from appearing twice, so it does not go on."""
    with pytest.raises(PacketError, match=reason):
        messages.open_record("s", delivery(container(packet)), PacketReader(), id_field)


def test_a_damaged_envelope_is_refused() -> None:
    """A record that says that it is an envelope and is none."""
    damaged = delivery(b"\xc1", headers={messages.CONTENT_TYPE: messages.ENVELOPE_TYPE})
    with pytest.raises(PacketError, match="is not an envelope"):
        messages.open_record("s", damaged, PacketReader(), "candid")


def test_an_envelope_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An envelope over the limit is refused with its size and the limit."""
    monkeypatch.setattr(messages, "MAX_ENVELOPE", 100)
    with pytest.raises(PacketError, match="bytes; the limit is 100"):
        messages.output("s", envelope({"x": "y" * 200}), delivery(b""))


def test_a_dead_letter_says_why_and_keeps_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original is in the payload, up to a limit, and the rest in headers."""
    monkeypatch.setattr(messages, "MAX_DEAD_LETTER", 4)
    small = messages.dead_letter("dead", "bad", pipeline="p", stage="f", stream="alerts", delivery=delivery(b"abc"))
    assert small.payload == b"abc"
    assert small.msg_id == "alerts:3:f"
    assert small.headers == {
        "Platformd-Reason": "bad",
        "Platformd-Pipeline": "p",
        "Platformd-Stage": "f",
        "Platformd-Origin": "alerts:3",
        "Platformd-Published": "5",
    }
    large = messages.dead_letter("dead", "r" * 9999, pipeline="p", stage="f", stream="s", delivery=delivery(b"abcdef"))
    assert (large.payload, large.headers["Platformd-Original-Size"]) == (b"abcd", "6")
    assert len(large.headers["Platformd-Reason"]) == messages.MAX_REASON
