/* One connection to the live socket: the handshake, then frames out of the ring, as many as there are at a time.
 *
 * nng calls back on its own threads. Sending goes on from its own callback for as long as there is something, and is
 * begun by the live thread otherwise. A receive is always outstanding: a subscriber has nothing to say, but that is
 * how its end is noticed.
 *
 * The last two bytes of its hello, which nng's SUB leaves zero, say what becomes of it when it is too slow: u16,
 * big-endian, enum pd_live_policy, or 0 for what the options say.
 */
#include "subscriber.h"

#include "feed.h"
#include "live.h"

#include <stdlib.h>

#define HELLO_MS  10000 /* for the handshake */
#define POLICY_AT 6u    /* in the hello */

static const uint8_t our_hello[PD_SP_HELLO] = {0, 'S', 'P', 0, 0, 0x20, 0, 0};   /* PUB */
static const uint8_t their_hello[PD_SP_HELLO] = {0, 'S', 'P', 0, 0, 0x21, 0, 0}; /* SUB */

void pd_subscriber_leave(struct pd_subscriber *subscriber)
{
    struct pd_live *live = subscriber->live;
    pthread_mutex_lock(&live->lock);
    if (!subscriber->gone) {
        atomic_fetch_sub(&live->subscribers, 1);
        atomic_fetch_sub(&live->waiting, subscriber->policy == PD_LIVE_BLOCK);
    }
    subscriber->gone = true;
    live->leaving = true;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
    live->nng->nng_stream_close(subscriber->stream); /* ends what is under way */
}

void pd_subscriber_transmit(struct pd_subscriber *subscriber)
{
    const struct pd_nng *nng = subscriber->live->nng;
    const uint8_t *from = subscriber->greeted ? subscriber->buffer : subscriber->hello;
    const nng_iov rest = {(void *)(from + subscriber->sent), subscriber->length - subscriber->sent};
    nng->nng_aio_set_iov(subscriber->send, 1, &rest);
    nng->nng_stream_send(subscriber->stream, subscriber->send);
}

/* Put frames into the buffer; the lock is held. False when there is no memory for one. */
static bool fill(struct pd_subscriber *subscriber)
{
    struct pd_live *live = subscriber->live;
    struct pd_live_place *place = &subscriber->place;
    if (subscriber->capacity > PD_LIVE_PIECE) {
        free(subscriber->buffer);
        subscriber->buffer = NULL;
        subscriber->capacity = 0;
    }
    size_t room = PD_LIVE_PIECE;
    if (!pd_reserve((void **)&subscriber->buffer, &subscriber->capacity, room, 1))
        return false;
    struct pd_live_taken taken = pd_live_ring_take(&live->ring, place, subscriber->ipc, subscriber->buffer, room);
    uint64_t missed = taken.missed;
    if (taken.needed > 0) {
        room = taken.needed;
        if (!pd_reserve((void **)&subscriber->buffer, &subscriber->capacity, room, 1))
            return false;
        taken = pd_live_ring_take(&live->ring, place, subscriber->ipc, subscriber->buffer, room);
    }
    subscriber->length = taken.length;
    subscriber->sent = 0;
    subscriber->records = taken.records;
    if (missed > 0) {
        pd_count(&live->notice->live_dropped, missed);
        pd_notice_tell(live->notice);
    }
    return true;
}

/* Whether it would miss a record, and wants to be sent away then; the lock is held. */
static bool too_slow(struct pd_subscriber *subscriber)
{
    struct pd_live *live = subscriber->live;
    bool slow = subscriber->known && subscriber->policy == PD_LIVE_DISCONNECT && !subscriber->gone &&
                subscriber->place.at < live->ring.tail.at;
    if (slow) {
        pd_count(&live->notice->live_dropped, live->ring.tail.record - subscriber->place.record);
        pd_count(&live->notice->live_disconnected, 1);
    }
    return slow;
}

void pd_subscriber_pump(struct pd_subscriber *subscriber)
{
    struct pd_live *live = subscriber->live;
    bool send = false;
    pthread_mutex_lock(&live->lock);
    bool leave = too_slow(subscriber);
    bool can = !leave && !subscriber->gone && !subscriber->sending && subscriber->greeted && subscriber->known;
    if (can && subscriber->policy == PD_LIVE_BLOCK) {
        pthread_cond_signal(&live->feed_wake);
    } else if (can && subscriber->place.at < live->ring.head.at) {
        send = fill(subscriber);
        leave = !send;
        subscriber->sending = send;
    }
    pthread_mutex_unlock(&live->lock);
    if (send)
        pd_subscriber_transmit(subscriber);
    if (leave) {
        pd_notice_tell(live->notice);
        pd_subscriber_leave(subscriber);
    }
}

static void on_send(void *context)
{
    struct pd_subscriber *subscriber = context;
    struct pd_live *live = subscriber->live;
    int result = live->nng->nng_aio_result(subscriber->send);
    size_t count = result == 0 ? live->nng->nng_aio_count(subscriber->send) : 0;
    pthread_mutex_lock(&live->lock);
    subscriber->sent += count;
    bool whole = subscriber->sent == subscriber->length;
    bool more = result == 0 && !whole && !subscriber->gone;
    if (result == 0 && whole && subscriber->greeted)
        pd_count(&live->notice->live_sent, subscriber->records);
    if (result == 0 && whole && !subscriber->greeted) {
        live->nng->nng_aio_set_timeout(subscriber->send, (int32_t)live->options.live_timeout_ms);
        subscriber->greeted = true;
    }
    pthread_mutex_unlock(&live->lock);
    if (more) {
        pd_subscriber_transmit(subscriber);
        return;
    }
    if (result == NNG_ETIMEDOUT) {
        pd_count(&live->notice->live_timeouts, 1);
        pd_notice_tell(live->notice);
    }
    if (result != 0)
        pd_subscriber_leave(subscriber);
    pthread_mutex_lock(&live->lock); /* nothing may free it before this; stopping its aio waits for this callback */
    subscriber->sending = false;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
    if (result == 0)
        pd_subscriber_pump(subscriber);
}

static void receive(struct pd_subscriber *subscriber)
{
    const struct pd_nng *nng = subscriber->live->nng;
    size_t from = subscriber->heard_length % PD_SP_HELLO;
    const nng_iov room = {subscriber->heard + from, PD_SP_HELLO - from};
    nng->nng_aio_set_iov(subscriber->receive, 1, &room);
    nng->nng_stream_recv(subscriber->stream, subscriber->receive);
}

/* Look at what came of the hello; the lock is held. False when it is not one. */
static bool hear(struct pd_subscriber *subscriber, size_t count)
{
    struct pd_live *live = subscriber->live;
    bool whole = subscriber->heard_length == PD_SP_HELLO;
    size_t fixed = subscriber->heard_length < POLICY_AT ? subscriber->heard_length : POLICY_AT;
    uint32_t policy = (uint32_t)subscriber->heard[POLICY_AT] << 8 | subscriber->heard[POLICY_AT + 1];
    if (subscriber->known || count == 0 || memcmp(subscriber->heard, their_hello, fixed) != 0 ||
        (whole && policy > PD_LIVE_DISCONNECT))
        return false;
    if (whole && !subscriber->gone) {
        subscriber->policy = policy == 0 ? live->options.live_policy : policy;
        subscriber->known = true;
        atomic_fetch_add(&live->waiting, subscriber->policy == PD_LIVE_BLOCK);
        live->nng->nng_aio_set_timeout(subscriber->receive, NNG_FOREVER);
    }
    return true;
}

static void on_receive(void *context)
{
    struct pd_subscriber *subscriber = context;
    struct pd_live *live = subscriber->live;
    struct pd_feed_cursor *needless = NULL;
    int result = live->nng->nng_aio_result(subscriber->receive);
    size_t count = result == 0 ? live->nng->nng_aio_count(subscriber->receive) : 0;
    pthread_mutex_lock(&live->lock);
    subscriber->heard_length += count;
    bool right = result == 0 && hear(subscriber, count);
    bool on = right && !subscriber->gone;
    if (on && subscriber->known && subscriber->policy != PD_LIVE_BLOCK) {
        needless = subscriber->cursors;
        subscriber->cursors = NULL;
    }
    pthread_mutex_unlock(&live->lock);
    pd_feed_forget(needless);
    if (on) {
        pd_subscriber_pump(subscriber);
        receive(subscriber);
        return;
    }
    pd_count(&live->notice->live_refused, result == 0 && !right && count > 0);
    pd_subscriber_leave(subscriber);
    pthread_mutex_lock(&live->lock);
    subscriber->receiving = false;
    pthread_cond_broadcast(&live->wake);
    pthread_mutex_unlock(&live->lock);
}

/* Into the list, hearing what is published from now on; false when there are too many. */
static bool enlist(struct pd_subscriber *subscriber)
{
    struct pd_live *live = subscriber->live;
    pthread_mutex_lock(&live->lock);
    unsigned before = atomic_load(&live->subscribers);
    bool room = before < live->options.live_subscribers && !live->stopping;
    if (room) {
        if (before == 0)
            atomic_fetch_add(&live->epoch, 1);
        atomic_store(&live->subscribers, before + 1);
        subscriber->place = live->ring.head;
        subscriber->sending = subscriber->receiving = true;
        subscriber->number = ++live->last_number;
        subscriber->next = live->list;
        live->list = subscriber;
    }
    pthread_mutex_unlock(&live->lock);
    return room;
}

struct pd_subscriber *pd_subscriber_accept(struct pd_live *live, nng_stream *stream, bool ipc)
{
    const struct pd_nng *nng = live->nng;
    struct pd_subscriber *subscriber = calloc(1, sizeof *subscriber);
    if (subscriber == NULL) {
        nng->nng_stream_free(stream);
        return NULL;
    }
    *subscriber = (struct pd_subscriber){.live = live, .stream = stream, .ipc = ipc, .length = PD_SP_HELLO};
    memcpy(subscriber->hello, our_hello, sizeof our_hello);
    if (nng->nng_aio_alloc(&subscriber->send, on_send, subscriber) != 0 ||
        nng->nng_aio_alloc(&subscriber->receive, on_receive, subscriber) != 0 || !enlist(subscriber)) {
        pd_count(&live->notice->live_refused, 1);
        pd_subscriber_free(subscriber);
        return NULL;
    }
    nng->nng_aio_set_timeout(subscriber->send, HELLO_MS);
    nng->nng_aio_set_timeout(subscriber->receive, HELLO_MS);
    pd_subscriber_transmit(subscriber);
    receive(subscriber);
    return subscriber;
}

void pd_subscriber_free(struct pd_subscriber *subscriber)
{
    const struct pd_nng *nng = subscriber->live->nng;
    nng->nng_stream_close(subscriber->stream);
    if (subscriber->send != NULL) {
        nng->nng_aio_stop(subscriber->send);
        nng->nng_aio_free(subscriber->send);
    }
    if (subscriber->receive != NULL) {
        nng->nng_aio_stop(subscriber->receive);
        nng->nng_aio_free(subscriber->receive);
    }
    nng->nng_stream_free(subscriber->stream);
    pd_feed_forget(subscriber->cursors);
    free(subscriber->buffer);
    free(subscriber);
}
