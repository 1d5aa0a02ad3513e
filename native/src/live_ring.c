/* The newest records as live subscribers get them.
 *
 * A frame is a message of nng's wire protocol (SP over TCP):
 *
 *     0 u64 length, big-endian, of what follows
 *     8 subject, a line feed, payload
 *
 * On a Unix socket a byte 1 comes before each. Frames lie in the ring one behind the other, and around its end.
 *
 * However many subscribers there are, the records that wait for them are here once, and the ring's size bounds them.
 */
#include "live_ring.h"

#include <stdlib.h>

#define LENGTH 8u

size_t pd_live_frame_length(bool ipc, struct pd_span subject, struct pd_span payload)
{
    return (ipc ? 1 : 0) + LENGTH + (size_t)subject.length + 1 + payload.length;
}

void pd_live_frame(bool ipc, struct pd_span subject, struct pd_span payload, uint8_t *out)
{
    uint64_t length = __builtin_bswap64((uint64_t)subject.length + 1 + payload.length);
    if (ipc)
        *out++ = 1;
    memcpy(out, &length, sizeof length);
    out += LENGTH;
    memcpy(out, subject.data, subject.length);
    out[subject.length] = '\n';
    if (payload.length > 0)
        memcpy(out + subject.length + 1, payload.data, payload.length);
}

bool pd_live_ring_init(struct pd_live_ring *ring, size_t size)
{
    *ring = (struct pd_live_ring){.size = size};
    ring->data = malloc(size);
    return ring->data != NULL;
}

void pd_live_ring_fini(struct pd_live_ring *ring)
{
    free(ring->data);
    ring->data = NULL;
}

static uint64_t write_at(struct pd_live_ring *ring, uint64_t at, const uint8_t *from, size_t length)
{
    size_t offset = at % ring->size;
    size_t first = length < ring->size - offset ? length : ring->size - offset;
    if (length > 0) {
        memcpy(ring->data + offset, from, first);
        memcpy(ring->data, from + first, length - first);
    }
    return at + length;
}

static void read_at(const struct pd_live_ring *ring, uint64_t at, uint8_t *to, size_t length)
{
    size_t offset = at % ring->size;
    size_t first = length < ring->size - offset ? length : ring->size - offset;
    memcpy(to, ring->data + offset, first);
    memcpy(to + first, ring->data, length - first);
}

/* Bytes of the frame at a place. */
static size_t frame_at(const struct pd_live_ring *ring, uint64_t at)
{
    uint64_t length;
    read_at(ring, at, (uint8_t *)&length, sizeof length);
    return LENGTH + (size_t)__builtin_bswap64(length);
}

bool pd_live_ring_put(struct pd_live_ring *ring, struct pd_span subject, struct pd_span payload)
{
    size_t body = (size_t)subject.length + 1 + payload.length;
    if (LENGTH + body > ring->size)
        return false;
    while (ring->head.at + LENGTH + body - ring->tail.at > ring->size) {
        ring->tail.at += frame_at(ring, ring->tail.at);
        ring->tail.record++;
    }
    uint64_t length = __builtin_bswap64(body);
    uint64_t at = write_at(ring, ring->head.at, (const uint8_t *)&length, sizeof length);
    at = write_at(ring, at, subject.data, subject.length);
    at = write_at(ring, at, (const uint8_t *)"\n", 1);
    ring->head.at = write_at(ring, at, payload.data, payload.length);
    ring->head.record++;
    return true;
}

struct pd_live_taken pd_live_ring_take(const struct pd_live_ring *ring, struct pd_live_place *place, bool ipc,
                                       uint8_t *out, size_t room)
{
    struct pd_live_taken taken = {0};
    if (place->at < ring->tail.at) {
        taken.missed = ring->tail.record - place->record;
        *place = ring->tail;
    }
    while (place->at < ring->head.at) {
        size_t frame = frame_at(ring, place->at);
        if (taken.length + ipc + frame > room) {
            taken.needed = taken.length == 0 ? ipc + frame : 0;
            break;
        }
        if (ipc)
            out[taken.length++] = 1;
        read_at(ring, place->at, out + taken.length, frame);
        taken.length += frame;
        taken.records++;
        place->at += frame;
        place->record++;
    }
    return taken;
}
