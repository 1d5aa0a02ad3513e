"""The data queues' formats: batches, frames and delivery blocks, as pure functions over bytes.

The batch is the unit from end to end: a producer encodes and checksums it once, and the same bytes go
over the wire, into the log and, record by record, out to consumers. Everything is little-endian and
aligned to 8 bytes. Names in capitals are the modules' constants. Each format is written down here;
``batch``, ``frames`` and ``delivery`` hold to it, and so does ``native/``.

Batch (module ``batch``)::

     0 u32 magic "PDB1"
     4 u32 length            the whole batch with this header; a multiple of 8
     8 u64 base_sequence     stamped: the sequence of the first record (0 from a producer)
    16 u64 append_time_ns    stamped: the daemon's clock
    24 u32 epoch             stamped: counts opens of the log
    28 u32 undurable         stamped: base_sequence - 1 - (last sequence known durable), saturating
    32 u32 stamp_crc         stamped: CRC32C of bytes [0, 32)
    36 u32 body_crc          CRC32C of bytes [40, length), computed once, by the producer
    40 u16 flags             0
    42 u16 subject_count     1 to 65535
    44 u32 record_count      at least 1
    48 u32 producer_id       0 for none
    52 u32 records_offset    where the first record starts
    56 u64 producer_sequence 0 for none
    64 subject table: subject_count x { u8 length (1 to 255), bytes }, zero-padded to 8
       records

The fields marked *stamped* are the broker's; ``body_crc`` leaves them out, so that the broker stamps
without hashing again.

Record::

     0 u32 length            the whole record, padding included; a multiple of 8
     4 u16 subject           index in the subject table
     6 u16 id_length         bytes of msg_id; 0 for none
     8 u32 headers_length    bytes of a MessagePack map of strings to strings; 0 for none
    12 u32 payload_length
    16 u64 time_ns           the producer's clock
    24 msg_id | headers | payload | zero padding to 8

Request frame, on nng REQ/REP (module ``frames``)::

     0 u8 version 1 | 1 u8 operation | 2 u16 flags | 4 u16 stream_length | 6 u16 consumer_length
     8 u64 argument1 | 16 u32 argument2 | 20 u32 argument3
    24 stream name, consumer name, zero-padded to 8
       body

    1 PUBLISH  ingest socket; flags = durability (0 memory, 1 os, 2 fsync); argument1 = expected last
               sequence or 2^64-1; an empty stream is found by the subjects; body = one batch
    2 FETCH    fetch socket; argument1 = wait in ms; argument2 = most records; argument3 = most bytes
    3 ACK      fetch socket; argument2 = n; body = n x { u64 sequence, u32 delay_ms,
               u8 kind (0 ack, 1 nak, 2 in progress, 3 term), u8 0, u16 reason_length }, then the reasons of
               terms, UTF-8, one after the other (who knows of none sends zeros and nothing more)

Reply frame::

     0 u8 version 1 | 1 u8 operation | 2 u16 status | 4 u32 detail_length
     8 u64 result1 | 16 u32 result2 | 20 u32 result3
    24 detail, UTF-8, zero-padded to 8
       body

    PUBLISH  result1 = first stored sequence (the last one when nothing was stored), result2 = appended,
             result3 = duplicates; detail = the stream's name; body, if there are duplicates: a bitmap,
             bit i (least significant first) set when record i was one
    FETCH    result1 = lag after this, result2 = records, result3 = ack_pending; body = a delivery block
    ACK      result2 = how many were known

``status`` is module ``status``'s ``Status``; when it is not 0, ``detail`` says in a sentence why, and the
operation may be 0, when it was refused before it was read.

Delivery block (module ``delivery``)::

     0 u32 subject_count | 4 u32 records_offset (from the block's start)
     8 subject table as in a batch
       for each record: u64 sequence, u64 append_time_ns, u32 deliveries, u32 0, then the record, whose
       subject index refers to this block's table
"""

from platformd.queues.codec.batch import BatchHeader, decode_batch, encode_batch, encode_payloads
from platformd.queues.codec.checksum import crc32c
from platformd.queues.codec.delivery import Deliveries, decode_block, encode_block
from platformd.queues.codec.frames import (
    NO_EXPECTATION,
    AckRequest,
    FetchRequest,
    PublishRequest,
    Reply,
    Request,
    decode_duplicates,
    decode_reply,
    decode_request,
    encode_ack,
    encode_acks,
    encode_duplicates,
    encode_fetch,
    encode_publish,
    encode_reply,
)
from platformd.queues.codec.status import Status, error_for

__all__ = [
    "NO_EXPECTATION",
    "AckRequest",
    "BatchHeader",
    "Deliveries",
    "FetchRequest",
    "PublishRequest",
    "Reply",
    "Request",
    "Status",
    "crc32c",
    "decode_batch",
    "decode_block",
    "decode_duplicates",
    "decode_reply",
    "decode_request",
    "encode_ack",
    "encode_acks",
    "encode_batch",
    "encode_block",
    "encode_duplicates",
    "encode_fetch",
    "encode_payloads",
    "encode_publish",
    "encode_reply",
    "error_for",
]
