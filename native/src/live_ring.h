/* The newest records as live subscribers get them: a ring of frames that many read, each from its own place. A place
 * that the writer has overtaken goes on at the oldest frame, and knows how many it missed. Not thread-safe. */
#ifndef PD_LIVE_RING_H
#define PD_LIVE_RING_H

#include "base.h"

/* The frame of a record, as it looks on Unix sockets or elsewhere. */
size_t pd_live_frame_length(bool ipc, struct pd_span subject, struct pd_span payload);
void pd_live_frame(bool ipc, struct pd_span subject, struct pd_span payload, uint8_t *out);

/* Where to go on: counted in bytes and in records since the ring was made. */
struct pd_live_place {
    uint64_t at;
    uint64_t record;
};

struct pd_live_ring {
    uint8_t *data;
    size_t size;
    struct pd_live_place tail; /* the oldest frame */
    struct pd_live_place head; /* where the next one will be */
};

/* False when there is no memory. */
bool pd_live_ring_init(struct pd_live_ring *ring, size_t size);
void pd_live_ring_fini(struct pd_live_ring *ring);

/* Add a record; the oldest make room. False when it is larger than the ring. */
bool pd_live_ring_put(struct pd_live_ring *ring, struct pd_span subject, struct pd_span payload);

/* What pd_live_ring_take found. */
struct pd_live_taken {
    size_t length;    /* bytes that were written */
    size_t needed;    /* when nothing was, although there is something: bytes of the next frame */
    uint64_t records; /* in them */
    uint64_t missed;  /* records that were overtaken before */
};

/* Copy whole frames from *place, which moves behind them, to `out`, which has `room` bytes. `ipc`: as they look on
 * Unix sockets. */
struct pd_live_taken pd_live_ring_take(const struct pd_live_ring *ring, struct pd_live_place *place, bool ipc,
                                       uint8_t *out, size_t room);

#endif
