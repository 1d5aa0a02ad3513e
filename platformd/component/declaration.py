"""What a component is and does, as its author declares it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import trio

from platformd.component.options import Options
from platformd.core.errors import InvalidInput, Unprocessable, nearest
from platformd.core.ids import is_name
from platformd.model.component import OfferedService, RunsUntil

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Service:
    """One thing that a component does."""

    name: str
    description: str
    parameters: type[msgspec.Struct]
    runs_until: RunsUntil
    function: Callable[..., Any]
    in_thread: bool

    def offered(self) -> OfferedService:
        """As it is told to others."""
        schema = schema_of(self.parameters)
        return OfferedService(
            name=self.name, description=self.description, parameters=schema, runs_until=self.runs_until
        )


class Component:
    """A component: declare its services, then ``main`` or ``serve`` it.

    Args:
        name: its name, as a resource's.
        version: its version.
        config: what it is configured with at first, an instance of a ``msgspec.Struct`` class; ``None``: nothing.

    Raises:
        InvalidInput: ``name`` is not a name.
    """

    def __init__(self, name: str, version: str, *, config: msgspec.Struct | None = None) -> None:
        if not is_name(name):
            raise InvalidInput("is not a name", subject=name, hint="lower-case letters, digits, '.', '_' and '-'")
        self.name, self.version = name, version
        self.config: Any = config
        """What it is configured with now."""
        self.services: dict[str, Service] = {}
        self.on_configure: Callable[[Any], None] | None = None
        self.gauges: dict[str, Callable[[], float]] = {}
        """Further metrics: the name of a gauge, and who knows it."""

    def service(
        self, description: str, *, name: str = "", runs_until: RunsUntil = "done"
    ) -> Callable[[Function], Function]:
        """Declare the function that follows as a service.

        It takes the ``Job`` and the parameters, whose type, a ``msgspec.Struct`` class, is that of its annotation. What
        it returns is the job's result; what it raises makes the job fail. ``async def`` runs on trio, ``def`` in a
        thread.

        Args:
            description: what it does, in a sentence.
            name: its name; the function's own if empty.
            runs_until: whether its jobs end by themselves.

        Raises:
            InvalidInput: there is one of that name, or the function does not say what its parameters are.
        """

        def declare(function: Function) -> Function:
            called = name or function.__name__.replace("_", "-")
            if called in self.services:
                raise InvalidInput("is declared already", subject=called)
            self.services[called] = Service(
                name=called,
                description=description,
                parameters=_parameters_of(function, called),
                runs_until=runs_until,
                function=function,
                in_thread=not inspect.iscoroutinefunction(function),
            )
            return function

        return declare

    def configured(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Declare who looks at a new configuration before it counts; what it raises refuses the configuration."""
        self.on_configure = function
        return function

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show what ``read`` returns as the gauge ``name`` in ``/metrics``."""
        self.gauges[name] = read

    def find(self, name: str) -> Service:
        """The service of that name.

        Raises:
            Unprocessable: there is none; the hint names the nearest.
        """
        found = self.services.get(name)
        if found is None:
            near = nearest(name, list(self.services))
            known = ", ".join(self.services) or "none"
            raise Unprocessable(
                "this component does not offer it",
                subject=f"service/{name}",
                hint=f"did you mean {near}?" if near else f"it offers: {known}",
            )
        return found

    async def serve(
        self,
        options: Options,
        *,
        stopping: trio.Event | None = None,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until it is told to stop, by ``stopping`` or by its control API.

        ``task_status.started`` gets the addresses once connections are accepted.
        """
        from platformd.component.serving import serve  # the HTTP stack, which those who only declare do not need

        await serve(self, options, stopping=trio.Event() if stopping is None else stopping, task_status=task_status)

    def main(self) -> None:
        """Run it as a program: ``--socket PATH``, ``--listen HOST:PORT``, ``--token-file FILE``; until SIGTERM."""
        from platformd.component.program import main

        main(self)


def schema_of(wanted: Any) -> dict[str, Any]:
    """The JSON Schema of a type."""
    return msgspec.json.schema(wanted)


def _parameters_of(function: Callable[..., Any], name: str) -> type[msgspec.Struct]:
    taken = list(inspect.signature(function).parameters)
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise InvalidInput(
            f"the types of its parameters are not known: {error}", subject=name, hint="declare them in the module"
        ) from error
    wanted = hints.get(taken[1]) if len(taken) == 2 else None
    if not (isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)):
        raise InvalidInput(
            "takes a job and its parameters, whose type is a msgspec.Struct class",
            subject=name,
            hint="def work(job: Job, parameters: MyParameters)",
        )
    return wanted
