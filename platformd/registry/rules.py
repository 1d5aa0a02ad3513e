"""What the registry decides, without a clock or a store."""

from __future__ import annotations

from platformd.model.resource import AnyResource
from platformd.model.service import EndpointStatus, ServiceStatus


def service_status(service: AnyResource, count: int) -> ServiceStatus:
    """The status of ``service`` when it has ``count`` endpoints that stay."""
    return ServiceStatus(
        state="available" if count else "empty",
        reason="" if count else "NoEndpoints",
        message="" if count else "no endpoint is registered for it",
        observed_generation=service.generation,
        endpoints=count,
    )


def endpoint_status(endpoint: AnyResource, *, service_exists: bool) -> EndpointStatus:
    """The status of ``endpoint``."""
    if service_exists:
        return EndpointStatus(state="registered", observed_generation=endpoint.generation)
    return EndpointStatus(
        state="orphaned",
        reason="NoService",
        message=f"there is no service {endpoint.spec.service!r}",
        observed_generation=endpoint.generation,
    )
