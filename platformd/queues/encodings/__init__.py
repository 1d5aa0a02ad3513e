"""What is inside records: encodings, schemas, and checking that payloads fit them.

    forms                a stream's format ready to use: ``Codec`` for programs, ``Check`` for the daemon
    npy                  NumPy arrays, with and without NumPy
    avro                 Avro values in three framings; ``avro_compatibility``: schema resolution
    json_schema          JSON Schema 2020-12, with bounds
    schemas              what is asked of schemas themselves: are they valid, are they compatible
    judging              the process that does the work for a daemon
    checkers             that process, seen from the daemon

Importing this package imports neither trio nor a validator: programs take ``Codec`` from here.
"""

from platformd.queues.encodings.forms import Codec
from platformd.queues.encodings.npy import NpyHeader, read_header

__all__ = ["Codec", "NpyHeader", "read_header"]
