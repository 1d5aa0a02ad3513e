/* Live subscribers whose policy is `block`: they are fed out of the log, each at its own pace.
 *
 * What blocks is the subscriber's own feed, and nothing else: no record waits for it in memory, neither the log nor
 * another subscriber ever does. Its place in a stream is a sequence; what it has not taken stays where it is, in the
 * log, for as long as retention keeps it. What is removed before it comes is counted as dropped. One thread feeds all
 * of them, 64 KiB to each in turn (or one larger record), and reads under a stream's lock as any consumer does. A
 * subscriber that takes nothing at all for live_timeout_ms is disconnected, as every other. */
#ifndef PD_FEED_H
#define PD_FEED_H

#include "base.h"
#include "reader.h"

struct pd_live;
struct pd_stream;
struct pd_subscriber;

/* Where a subscriber is in a stream of which it has not got everything. */
struct pd_feed_cursor {
    struct pd_feed_cursor *next;
    struct pd_stream *stream; /* a reference */
    uint64_t sequence;        /* that it gets next; the feeding thread's */
    uint64_t until;           /* the last one that it may get; guarded by live's lock */
    struct pd_reader reader;
};

/* Start the thread. */
int pd_feed_open(struct pd_live *live, pd_error *error);

/* Let it end. Its subscribers are as they are. */
void pd_feed_close(struct pd_live *live);

/* The records of the stream from `from` to `to` are there for those who are fed, and for those who may yet ask to be.
 */
void pd_feed_mark(struct pd_live *live, struct pd_stream *stream, uint64_t from, uint64_t to);

/* Forget what it was to get. No lock is held, and nobody else has the subscriber. */
void pd_feed_forget(struct pd_feed_cursor *cursors);

#endif
