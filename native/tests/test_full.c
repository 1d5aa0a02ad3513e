/* A full disk, made with RLIMIT_FSIZE: nothing half-written stays, nothing acknowledged is lost, and it goes on
 * when there is room. */
#include "journal.h"
#include "logs.h"

#include <sys/resource.h>

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void a_log_on_a_full_disk(void)
{
    const char *directory = fresh_directory(0);
    struct pd_log log;
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    limit_file_size(100003); /* not a multiple of anything: the last write is torn */
    int rc = PD_OK;
    while (rc == PD_OK)
        rc = append_records(&log, 10, true);
    CHECK_EQUAL(rc, PD_STORAGE_FULL);
    uint64_t last = log.last_sequence;
    CHECK(last > 500);
    CHECK_EQUAL(log.durable_sequence, last);
    CHECK_EQUAL(file_size(segment_path(directory, 1)), log.segments[0]->size);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    CHECK_EQUAL(append_records(&log, 10, true), PD_STORAGE_FULL);
    limit_file_size(RLIM_INFINITY);
    CHECK_EQUAL(append_records(&log, 10, true), PD_OK);
    CHECK_EQUAL(log.last_sequence, last + 10);
    CHECK_EQUAL(read_all(&log, NULL), PD_OK);
    pd_log_close(&log);
    CHECK_EQUAL(pd_log_open(&log, directory, &one_segment, NULL), PD_OK);
    CHECK_EQUAL(log.last_sequence, last + 10);
    CHECK_EQUAL(log.cut_bytes, 0);
    pd_log_close(&log);
}

static bool count_one(void *context, const struct pd_journal_entry *entry)
{
    *(uint64_t *)context += entry->kind == PD_J_DONE;
    return true;
}

static void a_journal_on_a_full_disk(void)
{
    char path[256];
    uint64_t seen = 0;
    struct pd_journal journal;
    snprintf(path, sizeof path, "%s/c.state", fresh_directory(0));
    CHECK_EQUAL(pd_journal_open(&journal, path, count_one, &seen, NULL), PD_OK);
    limit_file_size(10007);
    uint64_t written = 0;
    int rc = PD_OK;
    while (rc == PD_OK) {
        for (int i = 0; i < 3; i++)
            pd_journal_add(&journal, PD_J_DONE, 1, written + 1);
        rc = pd_journal_commit(&journal, NULL);
        written += rc == PD_OK ? 3 : 0;
    }
    CHECK_EQUAL(rc, PD_STORAGE_FULL);
    CHECK_EQUAL(file_size(path), journal.size);
    limit_file_size(RLIM_INFINITY);
    pd_journal_add(&journal, PD_J_DONE, 1, 1);
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    pd_journal_close(&journal);
    CHECK_EQUAL(pd_journal_open(&journal, path, count_one, &seen, NULL), PD_OK);
    CHECK_EQUAL(seen, written + 1);
    pd_journal_close(&journal);
}

void test_full(void)
{
    a_log_on_a_full_disk();
    a_journal_on_a_full_disk();
}
