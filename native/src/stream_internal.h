/* What the files of a stream share. All of it is called with the stream's lock held. */
#ifndef PD_STREAM_INTERNAL_H
#define PD_STREAM_INTERNAL_H

#include "stream.h"

/* What was finished under the lock, to be told after it. */
struct pd_finished {
    struct pd_pending *appends;
    struct pd_pending **appends_end;
    struct pd_fetch *fetches;
    struct pd_fetch **fetches_end;
};

void pd_finished_init(struct pd_finished *finished);
void pd_finished_append(struct pd_finished *finished, struct pd_pending *pending);
void pd_finished_fetch(struct pd_finished *finished, struct pd_fetch *fetch);

/* With no lock held: call every finish function. */
void pd_finished_tell(struct pd_finished *finished);

/* Readers see up to `sequence` from now on, and live publishes it. */
void pd_stream_reveal(struct pd_stream *stream, uint64_t sequence);

/* Complete pd_stream_await, if there is more than it is for, or with a status other than PD_OK. */
void pd_stream_tell_awaited(struct pd_stream *stream, int status);

/* Serve the fetches that wait and can be served. */
void pd_stream_serve(struct pd_stream *stream, struct pd_finished *finished);

/* Take the waiting fetches that `wanted` names out, and finish them with status. The earliest deadline of
 * those that stay. */
typedef bool (*pd_fetch_filter)(const struct pd_fetch *fetch, uint64_t argument);
uint64_t pd_stream_expel(struct pd_consumer *consumer, pd_fetch_filter wanted, uint64_t argument, int status,
                         struct pd_finished *finished);
bool pd_fetch_any(const struct pd_fetch *fetch, uint64_t ignored);
bool pd_fetch_owned(const struct pd_fetch *fetch, uint64_t owner);
bool pd_fetch_expired(const struct pd_fetch *fetch, uint64_t now_ns);

/* Drop what retention wants gone, as pd_log_drop; when to look again. */
uint64_t pd_stream_retain(struct pd_stream *stream, uint64_t now_mono_ns, struct pd_segment **dropped);

/* Takes the lock itself: the newest record of each matching subject, of those up to `to` that readers see. */
int pd_stream_collect_newest(struct pd_stream *stream, const char *filter, uint64_t to, struct pd_picks *ahead,
                             pd_error *error);

/* Tell the packer when segments were sealed that it can compress. */
void pd_stream_mark_packing(struct pd_stream *stream);

/* Without the lock: free what was dropped. */
void pd_stream_free_dropped(struct pd_stream *stream, struct pd_segment *dropped);

struct pd_consumer *pd_stream_consumer(struct pd_stream *stream, const char *name, pd_error *error);

/* Fill dedup from the log: begin; go on, true while there is more to do; to the end, giving the lock up in between. */
int pd_stream_dedup_open(struct pd_stream *stream, pd_error *error);
bool pd_stream_dedup_build(struct pd_stream *stream);
int pd_stream_dedup_require(struct pd_stream *stream, pd_error *error);
void pd_stream_dedup_fini(struct pd_stream *stream);

/* Refuse a batch that a limit of the stream does not allow: first for its records, whose subjects stream->table has,
 * then, with the header of it without its duplicates, for what would be kept. */
int pd_stream_check_sizes(const struct pd_stream *stream, const struct pd_batch_view *batch, pd_error *error);
int pd_stream_check_room(const struct pd_stream *stream, const struct pd_batch_header *header, pd_error *error);

/* The limits by which the log drops its oldest segments. */
uint64_t pd_stream_dropping_bytes(const pd_stream_config *config);

/* Erase the records from `from` to `to`: consumers first. How many they were goes to *erased (may be NULL). It is in
 * the journal after pd_log_erase_commit. */
int pd_stream_erase(struct pd_stream *stream, uint64_t from, uint64_t to, uint64_t *erased, pd_error *error);

/* The same for one record whose subject is known. */
int pd_stream_erase_one(struct pd_stream *stream, uint64_t sequence, struct pd_span subject, pd_error *error);

/* Erase the oldest records that are over max_records. */
void pd_stream_trim(struct pd_stream *stream);

/* The index of subjects: forget it (the configuration changed); go on building, true while there is more to do; build
 * for a while; build to the end, giving the lock up in between. */
void pd_stream_index_reset(struct pd_stream *stream);
bool pd_stream_index_build(struct pd_stream *stream);
void pd_stream_index_open(struct pd_stream *stream);
int pd_stream_index_require(struct pd_stream *stream, pd_error *error);

/* Refuse a batch for its subjects; tell the index what was appended, which erases what is over the limit. */
int pd_stream_index_expect(struct pd_stream *stream, const struct pd_batch_view *batch, uint64_t expected,
                           pd_error *error);
int pd_stream_index_check_room(struct pd_stream *stream, const struct pd_batch_header *header, pd_error *error);
void pd_stream_index_appended(struct pd_stream *stream, const struct pd_batch_header *header, const uint8_t *data);

/* Retention by consumers (stream_retention.c): whether a consumer may be made; let consumers note what they are done
 * with; erase what they have noted; erase what nobody needs of a batch that was appended; look through all that is
 * kept, beginning now, and go on with that (true while there is more to do). */
int pd_stream_check_work_queue(const struct pd_stream *stream, const char *name, const char *filter, pd_error *error);
void pd_stream_watch(struct pd_stream *stream);
void pd_stream_erase_done(struct pd_stream *stream);
void pd_stream_erase_unwanted(struct pd_stream *stream, const struct pd_batch_header *header, const uint8_t *data);
void pd_stream_begin_sweep(struct pd_stream *stream);
bool pd_stream_sweep(struct pd_stream *stream);

/* When the oldest record that is kept was appended; 0: there is none, or its segment cannot be read. */
uint64_t pd_stream_first_time(struct pd_stream *stream);

/* Tell what is to be told of a consumer, and wake the timer for its dead letters. */
void pd_stream_tell(struct pd_stream *stream, struct pd_consumer *consumer);

/* When the timer is to send dead letters of a consumer; UINT64_MAX: when something happens. */
uint64_t pd_stream_post_due(const struct pd_consumer *consumer);

/* Takes the lock itself, on the timer's thread: send dead letters. */
void pd_stream_post(struct pd_stream *stream);

/* When to look whether a consumer is to be removed as inactive; UINT64_MAX: never. */
uint64_t pd_stream_idle_due(const struct pd_consumer *consumer, uint64_t now_ns);

/* Remove those that are to be. */
void pd_stream_remove_idle(struct pd_stream *stream, uint64_t now_ns, struct pd_finished *finished);

/* Refuse work for a stream that is closed. */
int pd_stream_check_open(const struct pd_stream *stream, pd_error *error);

#endif
