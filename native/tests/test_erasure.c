/* Erasing from a log against a model: what is kept, counted and found, with reopening, dropped segments and torn
 * journals. */
#include "erasure.h"

#include "logs.h"

#include <stdlib.h>
#include <unistd.h>

enum { MOST = 4000 };

struct model {
    struct pd_log log;
    const char *directory;
    bool kept[MOST + 2];
};

static void open_model(struct model *model)
{
    pd_error error = {""};
    CHECK_EQUAL(pd_log_open(&model->log, model->directory, &small_segments, &error), PD_OK);
    CHECK(strcmp(error.text, "") == 0);
}

static void append(struct model *model, uint32_t count, bool sync)
{
    uint64_t last = model->log.last_sequence;
    CHECK_EQUAL(append_records(&model->log, count, sync), PD_OK);
    for (uint64_t i = last + 1; i <= model->log.last_sequence; i++)
        model->kept[i] = true;
}

static void erase(struct model *model, uint64_t from, uint64_t to)
{
    uint64_t erased = 999;
    uint64_t wanted = 0;
    for (uint64_t i = from; i <= to && i <= model->log.last_sequence; i++)
        wanted += model->kept[i], model->kept[i] = false;
    CHECK_EQUAL(pd_log_erase(&model->log, from, to, &erased, NULL), PD_OK);
    CHECK_EQUAL(erased, wanted);
    CHECK_EQUAL(pd_log_erase_commit(&model->log, NULL), PD_OK);
}

static void drop(struct model *model)
{
    struct pd_segment *dropped = NULL;
    CHECK(pd_log_drop_erased(&model->log, &dropped));
    while (dropped != NULL) {
        struct pd_segment *segment = dropped;
        dropped = segment->next;
        CHECK(access(segment->path, F_OK) != 0);
        pd_segment_unref(segment);
    }
}

static void compare(struct model *model)
{
    const struct pd_log *log = &model->log;
    struct pd_reader reader = {0};
    uint64_t last = log->last_sequence;
    uint64_t kept = 0;
    uint64_t previous;
    uint64_t next = last + 1;
    for (uint64_t i = last; i > 0; i--) {
        next = model->kept[i] ? i : next;
        CHECK_EQUAL(pd_log_next(log, i), next);
        CHECK_EQUAL(pd_log_keeps(log, i), model->kept[i]);
        CHECK_EQUAL(pd_log_count(log, i, last), kept += model->kept[i]);
        previous = i;
        while (previous > 0 && !model->kept[previous])
            previous--;
        CHECK_EQUAL(pd_log_previous(log, i), previous);
    }
    CHECK_EQUAL(log->first, next);
    CHECK_EQUAL(log->kept, kept);
    for (uint64_t at = log->first, i = 0; at <= last; at = pd_log_next(log, at + 1), i++) {
        uint64_t payload;
        CHECK_EQUAL(pd_log_nth(log, i), at);
        CHECK_EQUAL(pd_reader_seek(&reader, log, at, NULL), PD_OK);
        memcpy(&payload, pd_reader_record(&reader) + PD_RECORD_HEADER, sizeof payload);
        CHECK_EQUAL(payload, at);
    }
    CHECK(pd_log_kept_bytes(log) <= log->bytes);
    CHECK(kept > 0 || pd_log_kept_bytes(log) == 0);
}

static void anything_in_any_order(void)
{
    struct model *model = calloc(1, sizeof *model);
    model->directory = fresh_directory(0);
    open_model(model);
    for (int step = 0; step < 400; step++) {
        uint64_t last = model->log.last_sequence;
        uint64_t from = 1 + random_below((uint32_t)last + 3);
        uint32_t kind = random_below(12);
        if (kind < 5 && last + 30 < MOST)
            append(model, 1 + random_below(30), true);
        else if (kind < 8)
            erase(model, from, from + random_below(kind == 7 ? 100 : 4));
        else if (kind == 8)
            erase(model, model->log.first, model->log.first + random_below(40));
        else if (kind == 9)
            drop(model);
        else if (kind == 10) {
            pd_log_close(&model->log);
            open_model(model);
            CHECK_EQUAL(model->log.last_sequence, last);
        } else {
            compare(model);
        }
    }
    uint64_t last = model->log.last_sequence;
    CHECK(last > 1000 && model->log.gaps);
    compare(model);
    erase(model, 1, last);
    drop(model);
    CHECK_EQUAL(model->log.count, 1);
    CHECK_EQUAL(pd_log_seal(&model->log, NULL), PD_OK);
    drop(model);
    CHECK_EQUAL(model->log.bytes, 0);
    uint64_t newest = model->log.newest_time_ns;
    pd_log_close(&model->log);
    open_model(model);
    CHECK_EQUAL(model->log.last_sequence, last); /* the sequences go on although no record is left */
    CHECK_EQUAL(model->log.newest_time_ns, newest);
    append(model, 3, true);
    compare(model);
    pd_log_close(&model->log);
    free(model);
}

/* What was committed is there after every torn end, and nothing else. */
static void a_torn_journal(void)
{
    struct model *model = calloc(1, sizeof *model);
    char path[300];
    model->directory = fresh_directory(0);
    open_model(model);
    append(model, 30, true);
    erase(model, 3, 3);
    erase(model, 10, 19);
    pd_log_close(&model->log);
    snprintf(path, sizeof path, "%s/erased", model->directory);
    size_t size = file_size(path);
    CHECK_EQUAL(size, 48);
    for (size_t cut = size; cut-- > 0;) {
        CHECK(truncate(path, (off_t)cut) == 0);
        for (uint64_t i = 10; i < 20; i++)
            model->kept[i] = true;
        model->kept[3] = cut < 32;
        open_model(model);
        compare(model);
        pd_log_close(&model->log);
    }
    free(model);
}

/* The machine died with the journal ahead of the log: the new records that get the numbers are kept. */
static void a_journal_ahead_of_the_log(void)
{
    struct model *model = calloc(1, sizeof *model);
    model->directory = fresh_directory(0);
    open_model(model);
    append(model, 10, true);
    append(model, 10, true);
    uint64_t size = model->log.segments[0]->size / 2;
    erase(model, 8, 15);
    erase(model, 18, 18);
    pd_log_close(&model->log);
    CHECK(truncate(segment_path(model->directory, 1), (off_t)size) == 0);
    open_model(model);
    CHECK_EQUAL(model->log.last_sequence, 10);
    append(model, 10, true);
    compare(model);
    pd_log_close(&model->log);
    open_model(model);
    compare(model);
    pd_log_close(&model->log);
    free(model);
}

/* Between the journal's word and the unlinking of the file, and with a gap that nothing explains. */
static void gaps(void)
{
    struct model *model = calloc(1, sizeof *model);
    uint64_t bases[4];
    char saved[300];
    pd_error error = {""};
    model->directory = fresh_directory(0);
    open_model(model);
    while (model->log.count < 5)
        append(model, 10, true);
    for (int i = 0; i < 4; i++)
        bases[i] = model->log.segments[i]->base;
    snprintf(saved, sizeof saved, "%s/saved", fresh_directory(1));
    copy_file(segment_path(model->directory, bases[1]), saved);
    erase(model, bases[1], bases[3] - 1);
    drop(model);
    CHECK_EQUAL(model->log.count, 3);
    compare(model);
    pd_log_close(&model->log);
    copy_file(saved, segment_path(model->directory, bases[1])); /* as if the crash had come before */
    open_model(model);
    compare(model);
    CHECK_EQUAL(model->log.count, 3);
    CHECK(access(segment_path(model->directory, bases[1]), F_OK) != 0);
    pd_log_close(&model->log);
    CHECK(unlink(segment_path(model->directory, bases[3])) == 0);
    CHECK_EQUAL(pd_log_open(&model->log, model->directory, &small_segments, &error), PD_OK);
    struct pd_reader reader = {0};
    CHECK_EQUAL(pd_reader_seek(&reader, &model->log, bases[0], &error), PD_CORRUPTED);
    CHECK(strstr(error.text, segment_path(model->directory, bases[0])) != NULL);
    pd_log_close(&model->log);
    free(model);
}

/* Somebody lost the files behind a gap: what is appended then gets the numbers of the gap, and is not taken for it. */
static void files_that_are_lost_behind_a_gap(void)
{
    struct model *model = calloc(1, sizeof *model);
    struct pd_log *log = &model->log;
    uint64_t bases[5];
    model->directory = fresh_directory(0);
    open_model(model);
    while (log->count < 5)
        append(model, 10, true);
    for (int i = 0; i < 5; i++)
        bases[i] = log->segments[i]->base;
    erase(model, bases[1], bases[3] - 1);
    drop(model);
    log->stale = true; /* the journal is written anew, and knows the gap alone */
    CHECK_EQUAL(pd_log_erase_commit(log, NULL), PD_OK);
    pd_log_close(log);
    CHECK(unlink(segment_path(model->directory, bases[3])) == 0);
    CHECK(unlink(segment_path(model->directory, bases[4])) == 0);
    CHECK_EQUAL(pd_log_open(log, model->directory, &small_segments, NULL), PD_OK);
    CHECK_EQUAL(log->last_sequence, bases[1] - 1);
    while (log->count < 3)
        CHECK_EQUAL(append_records(log, 10, true), PD_OK);
    uint64_t last = log->last_sequence;
    for (int round = 0; round < 2; round++) {
        CHECK_EQUAL(log->last_sequence, last);
        CHECK_EQUAL(log->kept, last);
        CHECK_EQUAL(read_all(log, NULL), PD_OK);
        pd_log_close(log);
        CHECK_EQUAL(pd_log_open(log, model->directory, &small_segments, NULL), PD_OK);
    }
    pd_log_close(log);
    free(model);
}

/* The journal is written anew when it has grown, and is then as short as what it says. */
static void compaction(void)
{
    struct model *model = calloc(1, sizeof *model);
    char path[300];
    model->directory = fresh_directory(0);
    open_model(model);
    append(model, 200, true);
    erase(model, 1, 1);
    model->log.erasures->compact_at = 1000;
    for (uint64_t i = 2; i <= 100; i++)
        erase(model, i, i);
    compare(model);
    pd_log_close(&model->log);
    snprintf(path, sizeof path, "%s/erased", model->directory);
    CHECK(file_size(path) < 900);
    open_model(model);
    compare(model);
    pd_log_close(&model->log);
    free(model);
}

void test_erasure(void)
{
    anything_in_any_order();
    a_torn_journal();
    a_journal_ahead_of_the_log();
    gaps();
    files_that_are_lost_behind_a_gap();
    compaction();
}
