"""The boundary to C: one ``call`` that raises, and what goes over as structs.

``native/platformd.cdef`` says what each function does. The engine calls nng through pointers to the
functions of the nng that pynng brings: one nng in the process, and no Python between a frame and the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pynng

from platformd.core.errors import InvalidInput, Unsupported
from platformd.core.quantities import size_bytes
from platformd.core.settings import QueueSettings
from platformd.queues.checks import nanoseconds, whole
from platformd.queues.codec.status import error_for
from platformd.queues.contract import (
    MAX_BACKOFF_STEPS,
    AckPolicy,
    Compression,
    ConsumerConfig,
    DeliverPolicy,
    Retention,
    StreamConfig,
    StreamInfo,
)
from platformd.queues.native._native import ffi, lib

U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF
POLICIES: tuple[DeliverPolicy, ...] = get_args(DeliverPolicy)
"""As ``pd_start.policy`` numbers them."""
ACK_POLICIES: tuple[AckPolicy, ...] = get_args(AckPolicy)
"""As ``pd_consumer_config.ack_policy`` numbers them."""
RETENTIONS: tuple[Retention, ...] = ("limits", "interest", "work_queue")
"""As C numbers them."""
COMPRESSIONS: tuple[Compression, ...] = ("none", "zstd")
"""As C numbers them."""


def call(subject: str | None, function: Callable[..., int], *arguments: Any) -> None:
    """Call ``function`` with ``arguments`` and a place for its sentence.

    Args:
        subject: what is asked of, for the error (``stream/alerts``).

    Raises:
        PlatformError: it did not return ``PD_OK``; the class is ``error_for``'s.
    """
    error = ffi.new("pd_error *")
    status = function(*arguments, error)
    if status:
        raise error_for(status, ffi.string(error.text).decode(errors="replace"), subject=subject)


def options(settings: QueueSettings) -> Any:
    """The settings as ``pd_options``.

    Raises:
        InvalidInput: a size or a number is not one.
    """
    return ffi.new(
        "pd_options *",
        {
            "segment_size": size_bytes(settings.segment_size),
            "max_batch": size_bytes(settings.max_batch),
            "max_record": size_bytes(settings.max_record),
            "max_pending_appends": size_bytes(settings.max_pending_appends),
            "max_streams": whole("queues.max_streams", settings.max_streams, U32, 1),
            "max_consumers": whole("queues.max_consumers", settings.max_consumers, U32, 1),
            "max_waiting_fetches": whole("queues.max_waiting_fetches", settings.max_waiting_fetches, U32, 1),
            "decompressed_cache": size_bytes(settings.decompressed_cache),
        },
    )


def stream_config(config: StreamConfig) -> Any:
    """The limits of a stream as ``pd_stream_config``.

    Raises:
        InvalidInput: a number is out of its bounds.
    """
    return ffi.new(
        "pd_stream_config *",
        {
            "max_age_ns": nanoseconds("max_age", config.max_age),
            "max_bytes": whole("max_bytes", config.max_bytes, U64),
            "duplicate_window_ns": nanoseconds("duplicate_window", config.duplicate_window),
            "duplicate_limit": whole("duplicate_limit", config.duplicate_limit, U64),
            "max_records": whole("max_records", config.max_records, U64),
            "max_record_bytes": whole("max_record_bytes", config.max_record_bytes, U64),
            "max_records_per_subject": whole("max_records_per_subject", config.max_records_per_subject, U64),
            "retention": RETENTIONS.index(config.retention),
            "discard_new": config.discard == "new",
            "compression": COMPRESSIONS.index(config.compression),
            "validate": config.format.validate,
        },
    )


def stream_info(name: str, config: StreamConfig, info: Any) -> StreamInfo:
    """What a ``pd_stream_info`` says of stream ``name``."""
    measured = {
        field: getattr(info, field) for field in StreamInfo.__struct_fields__ if field not in ("name", "config")
    }
    return StreamInfo(name=name, config=config, **measured)


def consumer_config(config: ConsumerConfig, start_sequence: int) -> Any:
    """The limits of a consumer as ``pd_consumer_config``.

    Raises:
        InvalidInput: a number is out of its bounds, or there are more steps than ``MAX_BACKOFF_STEPS``.
    """
    if len(config.backoff) > MAX_BACKOFF_STEPS:
        raise InvalidInput(f"{len(config.backoff)} steps; the limit is {MAX_BACKOFF_STEPS}", subject="backoff")
    return ffi.new(
        "pd_consumer_config *",
        {
            "start_sequence": whole("start_sequence", start_sequence, U64),
            "newest_first": config.deliver_policy == "last_per_subject",
            "ack_policy": ACK_POLICIES.index(config.ack_policy),
            "max_deliver": whole("max_deliver", config.max_deliver, U32),
            "max_ack_pending": whole("max_ack_pending", config.max_ack_pending, U32),
            "ack_wait_ns": nanoseconds("ack_wait", config.ack_wait),
            "inactive_ns": nanoseconds("inactive_after", config.inactive_after),
            "dead_letter_subject": config.dead_letter_subject.encode(),
            "backoff_count": len(config.backoff),
            "backoff_ns": [nanoseconds(f"backoff[{i}]", step) for i, step in enumerate(config.backoff)],
        },
    )


def start(policy: DeliverPolicy, sequence: int, time_ns: int) -> Any:
    """Where a consumer begins, as ``pd_start``.

    Raises:
        InvalidInput: the policy is not one, or a number is out of its bounds.
    """
    if policy not in POLICIES:
        raise InvalidInput(
            f"{policy!r} is not a deliver policy", subject="policy", hint=f"one of {', '.join(POLICIES)}"
        )
    numbers = {"sequence": whole("start_sequence", sequence, U64), "time_ns": whole("start_time_ns", time_ns, U64)}
    return ffi.new("pd_start *", {"policy": POLICIES.index(policy), **numbers})


def subject_array(subjects: tuple[str, ...]) -> tuple[Any, list[Any]]:
    """``subjects`` as an array of C strings, and what must live as long as it."""
    strings = [ffi.new("char[]", subject.encode()) for subject in subjects]
    return ffi.new("char *[]", strings), strings


def nng_functions() -> Any:
    """The addresses of the nng functions that the engine asks for, in its order, NULL-terminated.

    Raises:
        Unsupported: the installed pynng lacks one.
    """
    names = lib.pd_nng_names()
    addresses: list[Any] = []
    while names[len(addresses)] != ffi.NULL:
        name = ffi.string(names[len(addresses)]).decode()
        try:
            address = pynng_address(pynng.ffi.addressof(pynng.lib, name))
        except AttributeError as error:
            raise Unsupported(
                f"pynng {pynng.__version__} does not offer {name}, which the queue engine needs",
                subject="pynng",
                hint="install the version that platformd asks for: pip install pynng==0.9.0",
            ) from error
        addresses.append(address)
    return ffi.new("void *[]", [*addresses, ffi.NULL])


def pynng_address(pointer: Any) -> Any:
    """A pointer of pynng's cffi as one of ours, which is another one."""
    return ffi.cast("void *", int(pynng.ffi.cast("uintptr_t", pointer)))


def take_block(block: Any, length: int) -> bytes:
    """The bytes of a delivery block that C allocated, which is freed."""
    if block == ffi.NULL:
        return b""
    try:
        return bytes(ffi.buffer(block, length))
    finally:
        lib.pd_block_free(block)
