/* Where consumers begin: by time, last, last per subject; against a walk over everything. */
#include "logs.h"
#include "start.h"

enum { BATCHES = 150 };

static struct pd_selection scratch;
static uint64_t times[BATCHES * 8 + 2]; /* of each sequence */
static int subject_of[BATCHES * 8 + 2];

static const char *const names[] = {"a.x", "a.y", "b", "c.rare"};

static struct pd_span span(const char *text)
{
    return (struct pd_span){(const uint8_t *)text, (uint32_t)strlen(text)};
}

/* Small batches in small segments; times that stand still at times; the rare subject early only. */
static void fill(struct pd_log *log)
{
    uint8_t data[8192];
    uint64_t now = 100;
    CHECK_EQUAL(pd_log_open(log, fresh_directory(0), &small_segments, NULL), PD_OK);
    for (int i = 0; i < BATCHES; i++) {
        struct item items[8];
        uint32_t count = 1 + random_below(8);
        uint32_t variety = i < 20 ? 4 : 1 + random_below(3);
        for (uint32_t j = 0; j < count; j++) {
            int subject = (int)random_below(variety);
            items[j] = (struct item){names[subject], NULL, "0123456789abcdef0123456789abcdef", 32};
            subject_of[log->last_sequence + 1 + j] = subject;
            times[log->last_sequence + 1 + j] = now;
        }
        struct pd_batch_header header;
        make_batch(data, items, count);
        memcpy(&header, data, sizeof header);
        CHECK_EQUAL(pd_log_append(log, &header, data + PD_BATCH_HEADER, now, NULL), PD_OK);
        now += random_below(3) * 10;
    }
    sync_log(log);
    CHECK(log->count > 5);
}

static void by_time(struct pd_log *log)
{
    uint64_t found;
    for (uint64_t time = 90; time < times[log->last_sequence] + 30; time += 5) {
        uint64_t wanted = pd_log_first_sequence(log);
        while (wanted <= log->last_sequence && times[wanted] < time)
            wanted++;
        CHECK_EQUAL(pd_start_at_time(log, time, &found, NULL), PD_OK);
        CHECK_EQUAL(found, wanted);
    }
}

static uint64_t last_of(const struct pd_log *log, uint64_t to, const char *filter)
{
    uint64_t found = 0;
    while (found == 0 && to >= pd_log_first_sequence(log))
        CHECK_EQUAL(pd_start_last_step(log, span(filter), &scratch, &to, &found, NULL), PD_OK);
    return found;
}

static void last(struct pd_log *log)
{
    uint64_t first = pd_log_first_sequence(log);
    for (uint64_t to = log->last_sequence; to >= first; to -= to > first + 40 ? 37 : 1) {
        uint64_t wanted = to;
        CHECK_EQUAL(last_of(log, to, ">"), to);
        while (wanted >= first && subject_of[wanted] > 1)
            wanted--;
        CHECK_EQUAL(last_of(log, to, "a.*"), wanted >= first ? wanted : 0);
        for (wanted = to; wanted >= first && subject_of[wanted] != 3;)
            wanted--;
        CHECK_EQUAL(last_of(log, to, "c.>"), wanted >= first ? wanted : 0);
    }
    CHECK_EQUAL(last_of(log, log->last_sequence, "nobody"), 0);
}

static void last_per_subject(struct pd_log *log)
{
    for (uint64_t to = 0; to <= log->last_sequence; to += 1 + to / 3) {
        struct pd_picks picks = {0};
        CHECK_EQUAL(pd_newest_collect(log, span(">"), &scratch, to, &picks, NULL), PD_OK);
        size_t at = 0;
        for (uint64_t i = pd_log_first_sequence(log); i <= to; i++) {
            uint64_t later = i + 1;
            while (later <= to && subject_of[later] != subject_of[i])
                later++;
            if (later <= to)
                continue;
            CHECK(at < picks.count && picks.sequences[at] == i);
            at++;
        }
        CHECK_EQUAL(picks.count, at);
        pd_picks_fini(&picks);
    }
}

static void many_subjects(void)
{
    struct pd_newest newest;
    struct pd_log log;
    struct pd_picks picks = {0};
    uint8_t data[8192];
    char name[16];
    int rc = PD_OK;
    uint64_t at = 1;
    CHECK_EQUAL(pd_log_open(&log, fresh_directory(0), &one_segment, NULL), PD_OK);
    CHECK_EQUAL(pd_newest_init(&newest, NULL), PD_OK);
    for (uint32_t i = 0; i < 3000; i++) {
        struct pd_batch_header header;
        snprintf(name, sizeof name, "s%u", i % 2500);
        const struct item item = {name, NULL, "", 0};
        make_batch(data, &item, 1);
        memcpy(&header, data, sizeof header);
        CHECK_EQUAL(pd_log_append(&log, &header, data + PD_BATCH_HEADER, 1, NULL), PD_OK);
    }
    while (rc == PD_OK && at <= 3000)
        rc = pd_newest_step(&newest, &log, span(">"), &scratch, &at, 3000, NULL);
    CHECK_EQUAL(rc, PD_OK);
    CHECK_EQUAL(pd_newest_finish(&newest, &picks, NULL), PD_OK);
    CHECK(picks.count == 2500 && picks.sequences[0] == 501 && picks.sequences[2499] == 3000);
    CHECK(!pd_picks_add(&picks, 3000)); /* not behind the last */
    pd_picks_advance(&picks, 2999);
    CHECK_EQUAL(pd_picks_left(&picks), 1);
    pd_picks_cut(&picks, 3000);
    CHECK(picks.sequences == NULL);
    pd_newest_fini(&newest);
    pd_log_close(&log);
}

void test_start(void)
{
    struct pd_log log;
    fill(&log);
    by_time(&log);
    last(&log);
    last_per_subject(&log);
    for (int i = 0; i < 3; i++)
        drop_oldest(&log);
    by_time(&log);
    last(&log);
    last_per_subject(&log);
    pd_log_close(&log);
    many_subjects();
    pd_selection_fini(&scratch);
}
