/* Requests and replies on the nng sockets (cooked REP0 here, REQ0 at the client), little-endian.
 *
 *    a request:
 *     0 u8  version           1
 *     1 u8  op                1 publish (ingest socket), 2 fetch, 3 ack (fetch socket)
 *     2 u16 flags             publish: durability 0 memory, 1 os, 2 fsync, and 256 with an expectation in arg2 and
 *                             arg3; else 0
 *     4 u16 stream_length     0 only for publish: the stream is found by the subjects
 *     6 u16 consumer_length   0 for publish
 *     8 u64 arg1              publish: expected last sequence or 2^64-1; fetch: milliseconds to wait
 *    16 u32 arg2              fetch: most records; ack: number of acknowledgements; publish with 256: low half of the
 *                             expected last sequence on the subject of the batch's first record (0: none is kept)
 *    20 u32 arg3              fetch: most bytes; publish with 256: high half of it
 *    24 stream name, consumer name, zero padding to 8, body
 *       publish: one batch
 *       ack: arg2 times { u64 sequence, u32 delay_ms, u8 kind, u8 zero, u16 reason_length }, then the reasons, UTF-8,
 *       one after the other without padding, 1 MiB at most (a client that knows of none sends zeros and nothing more)
 *
 *    a reply:
 *     0 u8  version           1
 *     1 u8  op                the request's
 *     2 u16 status            enum pd_status
 *     4 u32 detail_length
 *     8 u64 r1                publish: first stored sequence, or the last one when nothing was stored; fetch: lag
 *    16 u32 r2                publish: records appended; fetch: records; ack: how many were known
 *    20 u32 r3                publish: duplicates; fetch: deliveries that are out
 *    24 detail, zero padding to 8, body
 *       detail: the stream's name for a publish that succeeded, a sentence for what failed
 *       publish with duplicates: a bitmap, bit i (lowest first) for record i; fetch: a delivery block
 */
#include "wire.h"

#include <assert.h>

struct request_header {
    uint8_t version;
    uint8_t op;
    uint16_t flags;
    uint16_t stream_length;
    uint16_t consumer_length;
    uint64_t arg1;
    uint32_t arg2;
    uint32_t arg3;
};

struct reply_header {
    uint8_t version;
    uint8_t op;
    uint16_t status;
    uint32_t detail_length;
    uint64_t r1;
    uint32_t r2;
    uint32_t r3;
};

static_assert(sizeof(struct request_header) == PD_WIRE_HEADER, "a request's header is 24 bytes");
static_assert(sizeof(struct reply_header) == PD_WIRE_HEADER, "a reply's header is 24 bytes");

static bool take_name(const uint8_t *from, size_t length, char *name)
{
    memcpy(name, from, length);
    name[length] = 0;
    return length == 0 || pd_name_valid(name, length);
}

int pd_request_parse(const uint8_t *frame, size_t length, struct pd_request *request, pd_error *error)
{
    struct request_header header;
    memset(request, 0, sizeof *request);
    if (length < sizeof header)
        return pd_fail(error, PD_INVALID, "the request has %zu bytes; its header alone has %u", length, PD_WIRE_HEADER);
    memcpy(&header, frame, sizeof header);
    request->op = header.op;
    if (header.version != PD_WIRE_VERSION)
        return pd_fail(error, PD_BAD_VERSION, "the request has version %u; this daemon knows %u", header.version,
                       PD_WIRE_VERSION);
    size_t names = (size_t)header.stream_length + header.consumer_length;
    size_t body = pd_align8(sizeof header + names);
    if (header.stream_length > PD_NAME_MAX || header.consumer_length > PD_NAME_MAX || body > length)
        return pd_fail(error, PD_INVALID, "the request's names have %zu bytes and do not fit", names);
    const uint8_t *at = frame + sizeof header;
    if (!take_name(at, header.stream_length, request->stream) ||
        !take_name(at + header.stream_length, header.consumer_length, request->consumer))
        return pd_fail(error, PD_INVALID,
                       "the request's stream or consumer is not a name: 1 to 63 of A-Z a-z 0-9 . _ -");
    for (at += names; at < frame + body; at++)
        if (*at != 0)
            return pd_fail(error, PD_INVALID, "the padding behind the request's names is not zero");
    request->flags = header.flags;
    request->arg1 = header.arg1;
    request->arg2 = header.arg2;
    request->arg3 = header.arg3;
    request->body = frame + body;
    request->body_length = length - body;
    return PD_OK;
}

size_t pd_reply_body_offset(size_t detail_length)
{
    return pd_align8(PD_WIRE_HEADER + detail_length);
}

void pd_reply_write(uint8_t *frame, const struct pd_reply *reply, const char *detail, size_t detail_length)
{
    struct reply_header header = {
        .version = PD_WIRE_VERSION,
        .op = reply->op,
        .status = reply->status,
        .detail_length = (uint32_t)detail_length,
        .r1 = reply->r1,
        .r2 = reply->r2,
        .r3 = reply->r3,
    };
    memcpy(frame, &header, sizeof header);
    if (detail_length > 0)
        memcpy(frame + sizeof header, detail, detail_length);
    size_t end = sizeof header + detail_length;
    memset(frame + end, 0, pd_reply_body_offset(detail_length) - end);
}
