"""The data queues: durable subjects, captured by streams, read by consumers.

``contract`` has the promises, ``codec`` the wire and disk format; one folder for each engine.
"""
