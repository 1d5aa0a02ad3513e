"""The REST face: resources, watches and live data over HTTP, on the control socket.

``server`` carries HTTP; ``app`` puts the routes together; each other module is one part of the API, and ``openapi``
describes them all.
"""
