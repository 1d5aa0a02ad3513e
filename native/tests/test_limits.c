/* What a stream's limits refuse and remove, through the boundary. */
#include "check.h"

#include "erasure.h"
#include "streams.h"

static void records_over_their_size_are_refused(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    rig_start(&rig, fresh_directory(0),
              &(pd_stream_config){
                  .duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000, .max_record_bytes = 10 + 1 + 4});
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 2, 10).status, PD_OK); /* payload, subject "s", id "id-1" */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 2, 11).status, PD_TOO_LARGE);
    CHECK(strstr(rig.error.text, "16 bytes") != NULL && strstr(rig.error.text, "15") != NULL);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 2, 10).appended, 2); /* a refusal remembers nothing */
    rig_info(&rig, &info);
    CHECK_EQUAL(info.last_sequence, 4);
    rig_stop(&rig);
}

static void a_full_stream_refuses_whole_batches(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000, .max_records = 10};
    config.discard_new = 1;
    rig_start(&rig, fresh_directory(0), &config);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 8, 10).appended, 8);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 9, 3, 10).status, PD_STREAM_FULL);
    CHECK(strstr(rig.error.text, "8 records") != NULL && strstr(rig.error.text, "more than 10") != NULL);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 7, 4, 10).appended, 2); /* two of it are there already */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 8, 10).duplicates, 8);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).status, PD_STREAM_FULL);
    rig_info(&rig, &info);
    CHECK(info.messages == 10 && info.last_sequence == 10);
    config.max_records = 0;
    config.max_bytes = info.bytes + 200;
    rig_configure(&rig, &config);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 8, 10).status, PD_STREAM_FULL);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).appended, 1);
    rig_stop(&rig);
}

static void times_and_rates(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    const char *directory = fresh_directory(0);
    const pd_stream_config config = {0};
    uint64_t before = pd_wall_ns();
    rig_start(&rig, directory, &config);
    rig_info(&rig, &info);
    CHECK(info.first_time_ns == 0 && info.last_time_ns == 0 && info.publish_rate == 0.0);
    rig_append(&rig, "s", "", 1, 3, 10);
    rig_append(&rig, "s", "", 1, 3, 10);
    rig_info(&rig, &info);
    CHECK(info.first_time_ns >= before && info.last_time_ns >= info.first_time_ns);
    CHECK(info.last_time_ns <= pd_wall_ns());
    uint64_t first = info.first_time_ns;
    uint64_t last = info.last_time_ns;
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    rig_info(&rig, &info);
    CHECK_EQUAL(info.first_time_ns, first);
    CHECK_EQUAL(info.last_time_ns, last);
    rig_stop(&rig);
}

static void the_oldest_records_go(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    pd_consumer_info consumer;
    uint64_t sequences[100];
    const char *directory = fresh_directory(0);
    pd_stream_config config = {.max_records = 10};
    const pd_consumer_config plain = {.start_sequence = 1, .ack_wait_ns = 1u << 30, .max_ack_pending = 100};
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "all", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "odd", "odd", &plain, &rig.error), PD_OK);
    for (int i = 1; i <= 25; i++) {
        rig_append(&rig, i % 2 == 1 ? "odd" : "even", "", 1, 7, 500);
        rig_info(&rig, &info);
        CHECK_EQUAL(info.messages, i == 1 ? 7 : 10);
        CHECK_EQUAL(info.first_sequence, i == 1 ? 1 : i * 7 - 9);
        CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 100), info.messages);
        CHECK_EQUAL(sequences[0], info.first_sequence);
        pd_consumer_info_get(rig.engine, "s", "all", &consumer, &rig.error);
        CHECK_EQUAL(consumer.pending, info.messages);
        pd_consumer_info_get(rig.engine, "s", "odd", &consumer, &rig.error);
        CHECK_EQUAL(consumer.pending, i % 2 == 1 ? 7 : 3);
    }
    CHECK(info.bytes > 10 * 500 && info.bytes < 10 * 700);
    config.max_records = 4;
    rig_configure(&rig, &config);
    rig_info(&rig, &info);
    CHECK(info.messages == 4 && info.first_sequence == 172);
    config.max_records = 0;
    rig_configure(&rig, &config);
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    rig_info(&rig, &info);
    CHECK(info.messages == 4 && info.first_sequence == 172 && info.last_sequence == 175);
    rig_stop(&rig);
}

static uint64_t purge(struct stream_rig *rig, const char *pattern, uint64_t before, uint64_t keep)
{
    uint64_t removed = 999;
    CHECK_EQUAL(pd_stream_purge(rig->engine, "s", pattern, before, keep, &removed, &rig->error), PD_OK);
    return removed;
}

static void purging(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    pd_consumer_info consumer;
    uint64_t sequences[100];
    uint64_t removed;
    const char *directory = fresh_directory(0);
    const pd_stream_config config = {0};
    const pd_consumer_config plain = {.start_sequence = 1, .ack_wait_ns = 1u << 30, .max_ack_pending = 100};
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "all", ">", &plain, &rig.error), PD_OK);
    for (uint32_t i = 0; i < 30; i++) /* 1 to 10 on a, 11 to 20 on b, … */
        rig_append(&rig, i % 3 == 0 ? "a" : i % 3 == 1 ? "b" : "c", "", 1, 10, 100);
    CHECK_EQUAL(purge(&rig, "b", 0, 0), 100);
    CHECK_EQUAL(purge(&rig, "a", 51, 3), 17); /* of 1 to 10 and 31 to 40 */
    CHECK_EQUAL(rig_read(&rig, 0, "a", sequences, 100), 83);
    CHECK(sequences[0] == 38 && sequences[2] == 40 && sequences[3] == 61);
    CHECK_EQUAL(rig_read(&rig, 0, "b", sequences, 100), 0);
    CHECK_EQUAL(purge(&rig, "c", 0, 100), 0);
    rig_info(&rig, &info);
    CHECK(info.messages == 183 && info.first_sequence == 21 && info.last_sequence == 300);
    pd_consumer_info_get(rig.engine, "s", "all", &consumer, &rig.error);
    CHECK_EQUAL(consumer.pending, 183);
    CHECK_EQUAL(purge(&rig, ">", 40, 0), 12); /* 21 to 30, 38 and 39 */
    CHECK_EQUAL(purge(&rig, ">", 0, 7), 164);
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(pd_consumer_open(rig.engine, "s", "all", ">", &plain, &rig.error), PD_OK);
    CHECK_EQUAL(rig_read(&rig, 0, ">", sequences, 100), 7);
    CHECK(sequences[0] == 294 && sequences[6] == 300);
    pd_consumer_info_get(rig.engine, "s", "all", &consumer, &rig.error);
    CHECK_EQUAL(consumer.pending, 7);
    CHECK_EQUAL(purge(&rig, ">", 0, 0), 7);
    CHECK_EQUAL(purge(&rig, ">", 0, 0), 0);
    rig_info(&rig, &info);
    CHECK(info.messages == 0 && info.bytes == 0 && info.first_sequence == 301 && info.first_time_ns == 0);
    CHECK_EQUAL(rig_append(&rig, "a", "", 1, 1, 10).first_sequence, 301);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", "a..b", 0, 0, &removed, &rig.error), PD_INVALID);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "t", ">", 0, 0, &removed, &rig.error), PD_NO_STREAM);
    rig_stop(&rig);
}

enum { SUBJECTS = 7, MOST = 3000 };

/* Limits by subject against a model, with purges, other limits and reopening. */
static void the_newest_of_each_subject(void)
{
    static const char *const subjects[SUBJECTS] = {"a", "b", "c.a", "c.b", "d", "e", "f"};
    struct stream_rig rig;
    static uint8_t model[MOST + 1]; /* 1 + subject of what is kept */
    static uint64_t sequences[MOST];
    const char *directory = fresh_directory(0);
    pd_stream_config config = {.max_records_per_subject = 3};
    uint64_t last = 0;
    memset(model, 0, sizeof model);
    rig_start(&rig, directory, &config);
    for (int step = 0; step < 400; step++) {
        uint32_t subject = random_below(SUBJECTS);
        uint32_t count = 1 + random_below(5);
        if (step % 50 == 20) {
            config.max_records_per_subject = 1 + random_below(4);
            rig_configure(&rig, &config);
        } else if (step % 50 == 40) {
            rig_stop(&rig);
            rig_start(&rig, directory, &config);
        } else if (step % 10 == 0) {
            uint64_t removed;
            CHECK_EQUAL(pd_stream_purge(rig.engine, "s", subjects[subject], last, 1, &removed, &rig.error), PD_OK);
            uint64_t newest = 0;
            for (uint64_t i = 1; i < last; i++)
                newest = model[i] == subject + 1 ? i : newest;
            for (uint64_t i = 1; i < newest; i++)
                model[i] = model[i] == subject + 1 ? 0 : model[i];
        } else {
            CHECK_EQUAL(rig_append(&rig, subjects[subject], "", 1, count, 100).first_sequence, last + 1);
            for (uint32_t i = 0; i < count; i++)
                model[++last] = (uint8_t)(subject + 1);
        }
        uint64_t left[SUBJECTS + 1] = {0};
        size_t kept = 0;
        for (uint64_t i = last; i > 0; i--)
            if (model[i] != 0 && left[model[i]]++ >= config.max_records_per_subject)
                model[i] = 0;
        size_t found = rig_read(&rig, 0, ">", sequences, MOST);
        for (uint64_t i = 1; i <= last; i++)
            if (model[i] != 0)
                CHECK(kept < found && sequences[kept] == i), kept++;
        CHECK_EQUAL(found, kept);
    }
    CHECK(last > 500);
    rig_stop(&rig);
}

static int expecting(struct stream_rig *rig, const char *subject, uint64_t sequence)
{
    size_t length = make_numbered(rig->batch, subject, "", 1, 1, 10);
    int rc = pd_append_expecting(rig->engine, "s", rig->batch, length, 1, UINT64_MAX, sequence, 1, &rig->error);
    pd_completion completion;
    if (rc == PD_OK)
        CHECK_EQUAL(pd_completions_take(rig->engine, &completion, 1), 1);
    return rc;
}

static void the_last_of_a_subject_can_be_expected(void)
{
    struct stream_rig rig;
    uint64_t removed;
    const char *directory = fresh_directory(0);
    const pd_stream_config config = {0};
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(expecting(&rig, "a", 1), PD_SEQUENCE_MISMATCH);
    CHECK(strstr(rig.error.text, "on a is 0, not 1") != NULL);
    CHECK_EQUAL(expecting(&rig, "a", 0), PD_OK);
    CHECK_EQUAL(expecting(&rig, "a", 0), PD_SEQUENCE_MISMATCH);
    CHECK_EQUAL(expecting(&rig, "b", 0), PD_OK);
    CHECK_EQUAL(expecting(&rig, "a", 1), PD_OK);
    rig_append(&rig, "c", "", 1, 30, 100);
    CHECK_EQUAL(expecting(&rig, "a", 3), PD_OK);
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    CHECK_EQUAL(expecting(&rig, "c", 33), PD_OK);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", "a", 0, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", ">", 36, 1, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(expecting(&rig, "a", 34), PD_SEQUENCE_MISMATCH);
    CHECK_EQUAL(expecting(&rig, "a", 0), PD_OK);
    CHECK_EQUAL(expecting(&rig, "c", 35), PD_OK);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", "c", 0, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(expecting(&rig, "c", 0), PD_OK);
    rig_append(&rig, "c", "", 1, 3, 100);
    struct pd_stream *stream = pd_engine_stream(rig.engine, "s", &rig.error);
    pthread_mutex_lock(&stream->lock);
    CHECK_EQUAL(pd_log_erase(&stream->log, stream->log.last_sequence - 1, stream->log.last_sequence, NULL, NULL),
                PD_OK);
    pthread_mutex_unlock(&stream->lock);
    CHECK_EQUAL(expecting(&rig, "c", stream->log.last_sequence - 2), PD_OK); /* found backwards in the log */
    pd_stream_unref(stream);
    rig_stop(&rig);
}

static void a_full_subject_refuses(void)
{
    struct stream_rig rig;
    uint64_t removed;
    rig_start(&rig, fresh_directory(0), &(pd_stream_config){.max_records_per_subject = 2, .discard_new = 1});
    CHECK_EQUAL(rig_append(&rig, "a", "", 1, 2, 10).appended, 2);
    CHECK_EQUAL(rig_append(&rig, "a", "", 1, 1, 10).status, PD_STREAM_FULL);
    CHECK(strstr(rig.error.text, "2 records on a") != NULL);
    CHECK_EQUAL(rig_append(&rig, "b", "", 1, 3, 10).status, PD_STREAM_FULL);
    CHECK_EQUAL(rig_append(&rig, "b", "", 1, 2, 10).appended, 2);
    CHECK_EQUAL(pd_stream_purge(rig.engine, "s", ">", 2, 0, &removed, &rig.error), PD_OK);
    CHECK_EQUAL(rig_append(&rig, "a", "", 1, 1, 10).first_sequence, 5);
    rig_stop(&rig);
}

/* Many subjects come and go: the index forgets those of which nothing is left. */
static void the_index_forgets(void)
{
    struct stream_rig rig;
    char subject[32];
    rig_start(&rig, fresh_directory(0), &(pd_stream_config){.max_records_per_subject = 1, .max_records = 50});
    for (int i = 0; i < 9000; i++) {
        snprintf(subject, sizeof subject, "s.%d", i);
        size_t length = make_numbered(rig.batch, subject, "", 1, 1, 10);
        CHECK_EQUAL(pd_append(rig.engine, "s", rig.batch, length, 1, UINT64_MAX, 1, &rig.error), PD_OK);
        pd_completion completion;
        CHECK_EQUAL(pd_completions_take(rig.engine, &completion, 1), 1);
    }
    struct pd_stream *stream = pd_engine_stream(rig.engine, "s", &rig.error);
    CHECK(stream->index.count < 5000);
    pd_stream_unref(stream);
    rig_stop(&rig);
}

void test_limits(void)
{
    the_newest_of_each_subject();
    the_last_of_a_subject_can_be_expected();
    a_full_subject_refuses();
    the_index_forgets();
    the_oldest_records_go();
    purging();
    records_over_their_size_are_refused();
    a_full_stream_refuses_whole_batches();
    times_and_rates();
}
