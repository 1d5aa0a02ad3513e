/* Dead letters: taking what consumers gave up to the streams that capture its subject.
 *
 * The timer's thread collects the first letters of a consumer with their records under its stream's lock, and
 * appends them to the other stream without it, so that no two streams' locks are ever held at once. The commit
 * thread says when they are durable there; only then does the consumer's journal say that they are done. A crash
 * anywhere between sends them again, with the same msg_ids: the other stream's window of duplicates drops them.
 *
 * What cannot be stored stays and is tried again, after 1 s, 2 s, 4 s, … up to 30 s. One batch of a consumer is
 * under way at a time. A record that its own stream removed meanwhile is done, and is told as failed.
 */
#include "engine.h"
#include "erasure.h"
#include "stream_internal.h"

#include <stdlib.h>

#define LETTERS_MAX   64u
#define BYTES_MAX     ((uint64_t)256 << 10)
#define RETRY_NS      1000000000u
#define RETRY_MAX_NS  30000000000u
#define RETRY_DOUBLES 5u

struct post {
    struct pd_pending pending; /* first: finish gets its address */
    struct pd_stream *source;
    char consumer[PD_NAME_MAX + 1];
    char subject[256];
    struct pd_letter letters[LETTERS_MAX]; /* without their reasons */
    uint32_t count;
    uint32_t records;
    size_t length;
    uint8_t *batch;
};

static void free_post(struct post *post)
{
    pd_stream_unref(post->source);
    free(post->batch);
    free(post);
}

/* Its record, or the batch's end; *gone: the stream removed it. */
static int find_record(struct pd_stream *stream, struct pd_consumer *consumer, const struct pd_letter *letter,
                       bool *gone, struct pd_span *subject, pd_error *error)
{
    struct pd_selection *scratch = &stream->selection;
    *gone = !pd_log_keeps(&stream->log, letter->sequence);
    if (*gone)
        return PD_OK;
    int rc = pd_reader_seek(&consumer->again, &stream->log, letter->sequence, error);
    if (rc == PD_OK && pd_selection_match(scratch, &consumer->again, (struct pd_span){(const uint8_t *)">", 1}) < 0)
        rc = pd_fail(error, PD_LIMIT_REACHED, "no memory for a dead letter");
    if (rc == PD_OK)
        *subject = scratch->table[consumer->again.record.subject];
    return rc;
}

/* Fill the batch with the first letters; stops where it is full. */
static int fill(struct pd_stream *stream, struct pd_consumer *consumer, struct post *post, pd_error *error)
{
    const struct pd_letters *letters = &consumer->letters;
    size_t capacity = 0;
    int rc = PD_OK;
    for (size_t i = letters->start; i < letters->end && post->count < LETTERS_MAX; i++) {
        struct pd_letter_origin origin = {.stream = stream->name, .consumer = consumer->name};
        bool gone;
        if ((rc = find_record(stream, consumer, &letters->items[i], &gone, &origin.subject, error)) != PD_OK)
            break;
        uint64_t needed = gone ? 0 : consumer->again.record.length + PD_LETTER_ROOM;
        bool full = post->records > 0 && post->length + needed > pd_min64(BYTES_MAX, stream->engine->options.max_batch);
        if (full || (post->records == 0 && !pd_reserve((void **)&post->batch, &capacity, BYTES_MAX + needed, 1)))
            break;
        if (!gone) {
            if (post->records == 0)
                post->length = pd_letter_batch_begin(post->batch, post->subject);
            origin.record = pd_reader_record(&consumer->again);
            origin.about = consumer->again.record;
            post->length += pd_letter_write(&letters->items[i], &origin, post->batch + post->length);
            post->records++;
        }
        post->letters[post->count] = letters->items[i];
        post->letters[post->count++].reason = NULL;
    }
    return post->count > 0 ? PD_OK : rc;
}

static void failed(struct pd_stream *stream, struct pd_consumer *consumer, const char *why)
{
    struct pd_letters *letters = &consumer->letters;
    uint32_t doubles = letters->failures < RETRY_DOUBLES ? letters->failures : RETRY_DOUBLES;
    if (letters->failures++ == 0)
        pd_advise(&stream->engine->advisories, PD_ADVISE_DEAD_LETTER_FAILED, stream->name, consumer->name,
                  "a dead letter for %.63s waits and is tried again: %.150s", consumer->config.dead_letter_subject,
                  why);
    letters->sending = false;
    letters->retry_ns = pd_mono_ns() + pd_min64((uint64_t)RETRY_NS << doubles, RETRY_MAX_NS);
    pd_timer_schedule(&stream->engine->timer, stream, letters->retry_ns);
}

/* They are stored, or what was left of them is gone with their records. */
static void stored(struct pd_stream *stream, struct pd_consumer *consumer, const struct post *post,
                   struct pd_finished *finished)
{
    struct pd_letters *letters = &consumer->letters;
    letters->sending = false;
    letters->failures = 0;
    letters->retry_ns = 0;
    pd_consumer_posted(consumer, post->letters, post->count, NULL); /* not written: a crash sends them again */
    if (post->records < post->count)
        pd_advise(&stream->engine->advisories, PD_ADVISE_DEAD_LETTER_FAILED, stream->name, consumer->name,
                  "the stream removed %u records before their dead letters could be stored",
                  post->count - post->records);
    pd_stream_erase_done(stream);
    pd_stream_tell(stream, consumer);
    pd_stream_serve(stream, finished);
}

static void settle(struct post *post, int status, const char *why)
{
    struct pd_stream *stream = post->source;
    struct pd_finished finished;
    pd_finished_init(&finished);
    pthread_mutex_lock(&stream->lock);
    struct pd_consumer *consumer = stream->closed ? NULL : pd_stream_consumer(stream, post->consumer, NULL);
    bool same = consumer != NULL && pd_letters_count(&consumer->letters) > 0 && consumer->letters.sending &&
                consumer->letters.items[consumer->letters.start].sequence == post->letters[0].sequence &&
                consumer->letters.items[consumer->letters.start].epoch == post->letters[0].epoch;
    if (same && status == PD_OK)
        stored(stream, consumer, post, &finished);
    else if (same)
        failed(stream, consumer, why);
    pd_stream_unlock(stream);
    pd_finished_tell(&finished);
    free_post(post);
}

static void finish_post(struct pd_pending *pending)
{
    struct post *post = (struct post *)pending;
    free(pending->bitmap);
    settle(post, pending->status, pending->error.text);
}

static void send_post(struct post *post)
{
    pd_engine *engine = post->source->engine;
    struct pd_batch_view view = {.data = post->batch};
    const struct pd_expectation anything = {PD_NO_EXPECTATION, PD_NO_EXPECTATION};
    pd_error error = {""};
    struct pd_stream *target = pd_engine_route(engine, post->subject);
    int rc;
    if (post->records == 0) {
        rc = PD_OK;
    } else if (target == NULL) {
        rc = pd_fail(&error, PD_NOT_CAPTURED, "no stream captures the subject");
    } else if (target == post->source) {
        rc = pd_fail(&error, PD_INVALID, "the stream captures the subject itself");
    } else {
        pd_letter_batch_end(post->batch, post->length, post->records, &view.header);
        post->pending.finish = finish_post;
        rc = pd_stream_append(target, &view, PD_DURABLE_FSYNC, &anything, &post->pending, &error);
        if (rc == PD_OK) { /* the post is the commit thread's by now */
            pd_stream_unref(target);
            return;
        }
    }
    if (target != NULL)
        pd_stream_unref(target);
    settle(post, rc, error.text);
}

/* The next post of any consumer, or NULL. */
static struct post *next_post(struct pd_stream *stream)
{
    struct post *post = NULL;
    uint64_t now_ns = pd_mono_ns();
    pthread_mutex_lock(&stream->lock);
    for (size_t i = 0; !stream->closed && post == NULL && i < stream->consumer_count; i++) {
        struct pd_consumer *consumer = stream->consumers[i];
        struct pd_letters *letters = &consumer->letters;
        if (pd_letters_count(letters) == 0 || letters->sending || letters->retry_ns > now_ns)
            continue;
        pd_error error;
        post = calloc(1, sizeof *post);
        if (post == NULL)
            break; /* when the timer comes again */
        pd_stream_ref(stream);
        post->source = stream;
        memcpy(post->consumer, consumer->name, sizeof post->consumer);
        memcpy(post->subject, consumer->config.dead_letter_subject, sizeof post->subject);
        letters->sending = true;
        pd_fail(&error, PD_LIMIT_REACHED, "no memory for a dead letter");
        if (fill(stream, consumer, post, &error) != PD_OK || post->count == 0) {
            failed(stream, consumer, error.text);
            free_post(post);
            post = NULL;
        }
    }
    pd_stream_unlock(stream);
    return post;
}

void pd_stream_post(struct pd_stream *stream)
{
    struct post *post;
    while ((post = next_post(stream)) != NULL)
        send_post(post);
}

uint64_t pd_stream_post_due(const struct pd_consumer *consumer)
{
    const struct pd_letters *letters = &consumer->letters;
    return pd_letters_count(letters) > 0 && !letters->sending ? letters->retry_ns : UINT64_MAX;
}

void pd_stream_tell(struct pd_stream *stream, struct pd_consumer *consumer)
{
    struct pd_advisories *advisories = &stream->engine->advisories;
    uint64_t due = pd_stream_post_due(consumer);
    if (due == UINT64_MAX && !consumer->tellings.stalled && consumer->tellings.exhausted == 0)
        return;
    uint64_t exhausted;
    unsigned told = pd_consumer_tell(consumer, pd_mono_ns(), &exhausted);
    if ((told & PD_TELL_RESUMED) != 0)
        pd_advise(advisories, PD_ADVISE_RESUMED, stream->name, consumer->name,
                  "fewer than max_ack_pending (%u) deliveries are out again", consumer->config.max_ack_pending);
    if ((told & PD_TELL_STALLED) != 0)
        pd_advise(advisories, PD_ADVISE_STALLED, stream->name, consumer->name,
                  "max_ack_pending (%u) deliveries are out, and fetches wait for acknowledgements",
                  consumer->config.max_ack_pending);
    if ((told & PD_TELL_EXHAUSTED) != 0)
        pd_advise(advisories, PD_ADVISE_EXHAUSTED, stream->name, consumer->name,
                  "%llu record%s given up after max_deliver deliveries or by term", (unsigned long long)exhausted,
                  exhausted == 1 ? " was" : "s were");
    due = pd_min64(due, pd_consumer_tell_due(consumer));
    if (due != UINT64_MAX)
        pd_timer_schedule(&stream->engine->timer, stream, due);
}
