/* Helpers for tests over logs. */
#include "logs.h"

#include <stdlib.h>

const struct pd_log_options small_segments = {.segment_size = 4096, .max_batch = 65536};
const struct pd_log_options one_segment = {.segment_size = 1 << 20, .max_batch = 65536};

int append_records(struct pd_log *log, uint32_t count, bool sync)
{
    uint8_t batch[65536];
    uint64_t payloads[256][13];
    struct item items[256];
    struct pd_batch_header header;
    for (uint32_t i = 0; i < count; i++) {
        for (int word = 0; word < 13; word++)
            payloads[i][word] = log->last_sequence + 1 + i;
        items[i] = (struct item){"test", NULL, payloads[i], sizeof payloads[i]};
    }
    make_batch(batch, items, count);
    memcpy(&header, batch, sizeof header);
    int rc = pd_log_append(log, &header, batch + PD_BATCH_HEADER, pd_wall_ns(), NULL);
    if (sync)
        sync_log(log);
    return rc;
}

void sync_log(struct pd_log *log)
{
    struct pd_log_sync sync;
    pd_log_sync_begin(log, &sync);
    pd_log_sync_end(log, &sync, pd_log_sync_run(&sync, NULL));
}

void drop_oldest(struct pd_log *log)
{
    struct pd_segment *dropped = NULL;
    CHECK_EQUAL(pd_log_drop(log, 0, &dropped, NULL), PD_OK);
    pd_segment_unref(dropped);
}

int read_all(const struct pd_log *log, pd_error *error)
{
    struct pd_reader reader = {0};
    for (uint64_t at = pd_log_first_sequence(log); at <= log->last_sequence; at++) {
        uint64_t payload;
        int rc = pd_reader_seek(&reader, log, at, error);
        if (rc != PD_OK)
            return rc;
        CHECK_EQUAL(reader.sequence, at);
        memcpy(&payload, pd_reader_record(&reader) + PD_RECORD_HEADER, sizeof payload);
        CHECK_EQUAL(payload, at);
    }
    return PD_OK;
}

const char *segment_path(const char *directory, uint64_t base)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%020llu.seg", directory, (unsigned long long)base);
    return path;
}
