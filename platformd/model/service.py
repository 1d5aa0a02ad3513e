"""Service and Endpoint: what is offered, and where it is."""

from __future__ import annotations

from typing import Annotated

import msgspec

from platformd.model.kind import Column, Kind
from platformd.model.resource import Name, Status, Struct


class ServiceSpec(Struct, frozen=True, kw_only=True):
    """What it is."""

    protocol: str = "tcp"
    """How to talk to it: http, tcp, nng+ipc, …"""
    version: str = ""
    """The version of what is offered."""
    description: str = ""
    """What it is, for people."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    metadata: dict[str, str] = {}
    """What its users should know, by name."""


class ServiceStatus(Status, frozen=True, kw_only=True):
    """``available`` when it has an endpoint, ``empty`` when it has none."""

    endpoints: int = 0
    """How many endpoints offer it."""


class EndpointSpec(Struct, frozen=True, kw_only=True):
    """Where it is."""

    service: Name
    """The Service that is offered here."""
    address: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    """A host name, an IP address, or a path for Unix sockets."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0 for a Unix socket."""
    node: str = ""
    """The Node that it is on."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1
    """Its share of the traffic beside the service's other endpoints; 0 for none."""


class EndpointStatus(Status, frozen=True, kw_only=True):
    """``registered``, or ``orphaned`` when its Service is missing."""


SERVICE = Kind(
    name="Service",
    plural="services",
    summary="Something that is offered on the platform; its endpoints say where.",
    spec=ServiceSpec,
    status=ServiceStatus,
    aliases=("svc",),
    example={"protocol": "http", "version": "2.1", "description": "plate solving", "tags": ["astrometry"]},
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="PROTOCOL", path="spec.protocol"),
        Column(title="ENDPOINTS", path="status.endpoints", format="count"),
        Column(title="VERSION", path="spec.version", wide=True),
    ),
)

ENDPOINT = Kind(
    name="Endpoint",
    plural="endpoints",
    summary="A place where a Service is offered.",
    spec=EndpointSpec,
    status=EndpointStatus,
    aliases=("ep",),
    example={"service": "solver", "address": "10.0.0.7", "port": 8080},
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="SERVICE", path="spec.service"),
        Column(title="ADDRESS", path="spec.address"),
        Column(title="PORT", path="spec.port", format="count"),
    ),
)
