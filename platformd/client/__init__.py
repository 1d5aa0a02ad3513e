"""What other programs import to talk to the daemon.

The control API: ``http`` (requests, responses, targets), ``control`` (its operations), ``events`` (server-sent
events), ``problems``, ``reading`` and ``watching`` do no I/O; ``blocking.Client`` is their shell for plain
programs and the command line, ``aio`` the one for asyncio. Records travel on the queues' own sockets
(``queues``). Nothing is imported here, so that each program pays only for what it uses.
"""
