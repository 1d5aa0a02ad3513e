"""A kind that is declared here and nowhere else has every face."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from platformd.api.app import create_app
from platformd.cli.output import row_of, titles_of
from platformd.conductor import Conductor
from platformd.core.errors import FieldError
from platformd.core.ids import uuid7
from platformd.model.kind import Action, Column, Kind
from platformd.model.kinds import KINDS
from platformd.model.resource import AnyResource, Status, Struct
from tests.api.conftest import Start
from tests.api.fakes import make_context, make_settings
from tests.api.wire import Client


class DomeSpec(Struct, frozen=True, kw_only=True):
    """What is wanted of a dome."""

    azimuth: Annotated[float, msgspec.Meta(ge=0, lt=360)] = 0.0
    """Where its slit points, degrees east of north."""


class DomeStatus(Status, frozen=True, kw_only=True):
    """``closed`` or ``open``."""

    shutter_percent: float = 0.0
    """How far it is open."""


class Turn(Struct, frozen=True, kw_only=True):
    """How far to turn."""

    degrees: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    """To the east; negative to the west."""


def _not_north(spec: DomeSpec) -> list[FieldError]:
    """The slit does not point at the mast, which stands at 1 degree."""
    return [FieldError(path="spec.azimuth", message="points at the mast")] if spec.azimuth == 1.0 else []


DOME = Kind(
    name="Dome",
    plural="domes",
    summary="What keeps the rain off a telescope.",
    spec=DomeSpec,
    status=DomeStatus,
    aliases=("dm",),
    example={"azimuth": 180.0},
    checks=(_not_north,),
    actions=(Action(name="turn", summary="Turn it.", parameters=Turn),),
    transitions={"pending": frozenset({"open"}), "open": frozenset({"closed"}), "closed": frozenset({"open"})},
    columns=(Column(title="STATE", path="status.state"), Column(title="OPEN", path="status.shutter_percent")),
)


@pytest.fixture
async def domes(tmp_path: Path, start: Start) -> tuple[Conductor, Client]:
    """A server that has the kind, and its room: one function."""
    context = make_context(make_settings(tmp_path))
    conductor = Conductor(context.store, context.clock, uuid7(context.clock), (*KINDS, DOME))

    async def turn(dome: AnyResource, asked: Turn) -> None:
        azimuth = (dome.spec.azimuth + asked.degrees) % 360
        await conductor.patch(DOME, dome.name, dome.tenant, {"spec": {"azimuth": azimuth}})

    conductor.actions.register(DOME, "turn", turn)
    served = await start(create_app(dataclasses.replace(context, conductor=conductor)))
    return conductor, await served.client()


async def test_it_is_created_read_changed_and_deleted(domes: tuple[Conductor, Client]) -> None:
    """The generic routes serve it, with its types and its rules."""
    _, client = domes
    assert (await client.request("POST", "/v1/domes", {"name": "north", "spec": {"azimuth": 10}})).status == 201
    wrong = await client.request("PUT", "/v1/domes/north", {"spec": {"azimuth": 1}})
    assert (wrong.status, wrong.json["errors"][0]["message"]) == (422, "points at the mast")
    assert (await client.request("GET", "/v1/domes/north")).json["spec"] == {"azimuth": 10.0}
    assert (await client.request("DELETE", "/v1/domes/north")).status == 200
    assert (await client.request("GET", "/v1/domes")).json["items"] == []


async def test_it_is_described(domes: tuple[Conductor, Client]) -> None:
    """Its document has the schema with descriptions and units, the states and the rules."""
    described = (await domes[1].request("GET", "/v1/kinds/dm")).json
    defs = described["schema"]["$defs"]
    assert defs["DomeSpec"]["properties"]["azimuth"]["description"] == "Where its slit points, degrees east of north."
    assert defs["DomeStatus"]["properties"]["shutter_percent"]["x-unit"] == "%"
    assert described["rules"] == ["The slit does not point at the mast, which stands at 1 degree."]
    assert [row["state"] for row in described["states"]] == ["pending", "open", "closed"]
    assert [action["name"] for action in described["actions"]] == ["turn"]


async def test_its_action_is_done(domes: tuple[Conductor, Client]) -> None:
    """A POST does what its room registered, with parameters that are checked."""
    _, client = domes
    await client.request("POST", "/v1/domes", {"name": "north", "spec": {"azimuth": 350}})
    turned = await client.request("POST", "/v1/domes/north/actions/turn", {"degrees": 20})
    assert (turned.status, turned.json["spec"]) == (200, {"azimuth": 10.0})
    wrong = await client.request("POST", "/v1/domes/north/actions/turn")
    assert (wrong.status, [e["path"] for e in wrong.json["errors"]]) == (422, ["degrees"])
    assert (await client.request("POST", "/v1/domes/north/actions/open")).status == 404
    assert (await client.request("POST", "/v1/domes/south/actions/turn", {"degrees": 1})).status == 404


async def test_it_has_a_table(domes: tuple[Conductor, Client]) -> None:
    """Its columns are printed as those of any kind."""
    _, client = domes
    document: Any = (await client.request("POST", "/v1/domes", {"name": "north", "spec": {}})).json
    assert titles_of(DOME, wide=False) == ["NAME", "STATE", "OPEN", "AGE"]
    assert row_of(DOME, document, wide=False)[:3] == ["north", "pending", "0.0"]
