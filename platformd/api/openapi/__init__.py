"""The OpenAPI 3.1 document of the API, made from what each route says of itself.

``declared``    what a handler says of itself: the decorator ``operation``
``parameters``  the parameters that several routes have
``shapes``      what goes over the wire, where no type of the platform says it
``resources``   the schemas of a kind's resources
``document``    all of it together
"""

from platformd.api.openapi.declared import Answer, Body, Of, Parameter, operation

__all__ = ["Answer", "Body", "Of", "Parameter", "operation"]
