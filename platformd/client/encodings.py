"""Values instead of bytes: a stream's ``Codec``, as its resource declares it.

Producers and consumers always move bytes; a codec stands beside them::

    with Client() as client:
        codec = stream_codec(client, "images")

    with Producer(ingest) as producer:
        producer.publish("images.raw", codec.encode(array))

    for delivery in consumer.fetch():
        array = codec.decode(delivery.payload)

``read_header`` looks at an array (type, shape) without NumPy.
"""

from __future__ import annotations

from platformd.client.blocking import Client
from platformd.core.errors import NotFound
from platformd.model.resource import DEFAULT_TENANT, AnyResource
from platformd.model.schema import SCHEMA, reference
from platformd.model.stream import STREAM
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings import Codec, NpyHeader, read_header
from platformd.queues.encodings.forms import schema_text

__all__ = ["Codec", "NpyHeader", "codec_of", "read_header", "schema_name", "stream_codec"]


def stream_codec(client: Client, stream: str, *, tenant: str = DEFAULT_TENANT) -> Codec:
    """The codec of a stream, asked of the daemon once.

    Raises:
        NotFound: the stream, or the schema that it refers to, is not there.
    """
    resource = client.get(STREAM, stream, tenant=tenant)
    name = schema_name(resource)
    return codec_of(resource, None if name is None else client.get(SCHEMA, name, tenant=tenant))


def schema_name(stream: AnyResource) -> str | None:
    """The Schema that a Stream refers to, or ``None``."""
    parts = reference(stream.spec.schema) if isinstance(stream.spec.schema, str) else None
    return None if parts is None else parts[0]


def codec_of(stream: AnyResource, schema: AnyResource | None = None) -> Codec:
    """The codec of a Stream that was read, for clients of any kind.

    Args:
        stream: the Stream.
        schema: the Schema that it refers to (``schema_name``).

    Raises:
        NotFound: the schema, or its version, is missing.
    """
    text = ""
    if isinstance(stream.spec.schema, str):
        parts = reference(stream.spec.schema)
        versions = {} if schema is None else {v.version: v.schema for v in schema.spec.versions}
        if parts is None or parts[1] not in versions:
            raise NotFound("the schema that it refers to is missing", subject=f"stream/{stream.name}")
        text = schema_text(versions[parts[1]])
    elif stream.spec.schema is not None:
        text = schema_text(stream.spec.schema)
    spec = stream.spec
    return Codec(RecordFormat(encoding=spec.encoding, framing=spec.framing, schema=text, validate=spec.validate))
