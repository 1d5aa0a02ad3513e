/* One connection to the live socket. */
#ifndef PD_SUBSCRIBER_H
#define PD_SUBSCRIBER_H

#include "live_ring.h"
#include "nng_api.h"

struct pd_live;
struct pd_feed_cursor;

#define PD_SP_HELLO 8u /* bytes of the handshake, each way */

struct pd_subscriber {
    struct pd_live *live;
    nng_stream *stream;
    nng_aio *send;
    nng_aio *receive;
    bool ipc;
    uint64_t number; /* of all that there were */

    /* Guarded by live's lock. */
    struct pd_subscriber *next;
    struct pd_live_place place;
    bool sending;
    bool receiving;
    bool greeted; /* our hello is sent */
    bool known;   /* its hello is right */
    bool gone;
    bool feeding;                   /* the feeding thread has it; `sending` is set, too */
    uint32_t policy;                /* enum pd_live_policy, once it is known */
    struct pd_feed_cursor *cursors; /* streams of which it has not got all; see feed.h */
    size_t length;                  /* of buffer, that is to be sent */
    size_t sent;
    uint8_t *buffer;
    size_t capacity;
    uint64_t records; /* in the buffer */
    uint8_t hello[PD_SP_HELLO];
    uint8_t heard[PD_SP_HELLO];
    size_t heard_length;
};

/* Take a connection over, and begin the handshake. NULL, and it is closed, when there is no memory or there are too
 * many. */
struct pd_subscriber *pd_subscriber_accept(struct pd_live *live, nng_stream *stream, bool ipc);

/* Send what is in the ring, unless that is going on; or have it fed. */
void pd_subscriber_pump(struct pd_subscriber *subscriber);

/* Send what is left of the buffer; `sending` is set. */
void pd_subscriber_transmit(struct pd_subscriber *subscriber);

/* Close the connection; whoever it was is gone. */
void pd_subscriber_leave(struct pd_subscriber *subscriber);

/* Free one that is not in the list any more and has nothing under way. */
void pd_subscriber_free(struct pd_subscriber *subscriber);

#endif
