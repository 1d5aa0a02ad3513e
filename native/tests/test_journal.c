/* The journal: torn tails, damage, compaction. */
#include "check.h"
#include "journal.h"

#include <unistd.h>

static bool collect(void *context, const struct pd_journal_entry *entry)
{
    uint64_t *next = context;
    CHECK_EQUAL(entry->sequence, *next + 1);
    *next = entry->sequence;
    return true;
}

static void fill(const char *path, uint64_t count)
{
    struct pd_journal journal;
    uint64_t last = 0;
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &last, NULL), PD_OK);
    for (uint64_t i = 1; i <= count; i++)
        pd_journal_add(&journal, PD_J_DONE, 1, i);
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    pd_journal_close(&journal);
}

static uint64_t replayed(const char *path, uint64_t *size)
{
    struct pd_journal journal;
    uint64_t last = 0;
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &last, NULL), PD_OK);
    *size = journal.size;
    pd_journal_add(&journal, PD_J_DONE, 1, last + 1); /* and it goes on */
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    pd_journal_close(&journal);
    uint64_t again = 0;
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &again, NULL), PD_OK);
    CHECK_EQUAL(again, last + 1);
    pd_journal_close(&journal);
    return last;
}

static void torn_and_damaged(void)
{
    char whole[256];
    char path[256];
    uint64_t size;
    snprintf(whole, sizeof whole, "%s/whole", fresh_directory(0));
    snprintf(path, sizeof path, "%s/c.state", fresh_directory(1));
    fill(whole, 20);
    CHECK_EQUAL(file_size(whole), 21 * 16);
    for (size_t cut = 0; cut <= 21 * 16; cut++) {
        copy_file(whole, path);
        CHECK(truncate(path, (off_t)cut) == 0);
        CHECK_EQUAL(replayed(path, &size), cut >= 16 ? cut / 16 - 1 : 0);
    }
    for (size_t at = 0; at < 21 * 16; at++) {
        copy_file(whole, path);
        flip_byte(path, at, (uint8_t)(1u << random_below(8)));
        CHECK_EQUAL(replayed(path, &size), at >= 16 ? at / 16 - 1 : 0);
    }
    CHECK(unlink(path) == 0);
    fill(path, 5000); /* more than the buffers of both directions */
    CHECK_EQUAL(replayed(path, &size), 5000);
}

static void compaction(void)
{
    char path[256];
    struct pd_journal journal;
    struct pd_journal fresh;
    uint64_t last = 0;
    uint64_t size;
    snprintf(path, sizeof path, "%s/c.state", fresh_directory(0));
    fill(path, 65534);
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &last, NULL), PD_OK);
    CHECK(!pd_journal_wants_compaction(&journal));
    pd_journal_close(&journal);
    CHECK(unlink(path) == 0);
    last = 0;
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &last, NULL), PD_OK);
    for (uint64_t i = 1; i <= 65536; i++)
        pd_journal_add(&journal, PD_J_DONE, 1, i);
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    CHECK(pd_journal_wants_compaction(&journal));
    CHECK_EQUAL(pd_journal_compact_begin(&journal, &fresh, NULL), PD_OK);
    pd_journal_add(&fresh, PD_J_DONE, 1, 1);
    CHECK_EQUAL(pd_journal_compact_end(&journal, &fresh, NULL), PD_OK);
    CHECK(!pd_journal_wants_compaction(&journal));
    pd_journal_add(&journal, PD_J_DONE, 1, 2);
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    pd_journal_close(&journal);
    CHECK_EQUAL(file_size(path), 3 * 16);
    CHECK_EQUAL(replayed(path, &size), 2);
}

static void runs(void)
{
    char path[256];
    struct pd_journal journal;
    struct pd_run run = {0};
    uint64_t last = 0;
    snprintf(path, sizeof path, "%s/c.state", fresh_directory(0));
    CHECK_EQUAL(pd_journal_open(&journal, path, collect, &last, NULL), PD_OK);
    for (uint64_t i = 1; i <= 70000; i++)
        if (i != 100)
            pd_journal_run_add(&journal, PD_J_DONE, &run, i);
    pd_journal_run_end(&journal, PD_J_DONE, &run);
    CHECK_EQUAL(pd_journal_commit(&journal, NULL), PD_OK);
    CHECK_EQUAL(journal.size, 4 * 16); /* start, 1–99, 101–65635, the rest */
    pd_journal_close(&journal);
}

void test_journal(void)
{
    torn_and_damaged();
    compaction();
    runs();
}
