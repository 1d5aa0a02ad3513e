/* Consumers: random use against a plain model, and the rules one by one. */
#include "consumer.h"
#include "logs.h"
#include "start.h"

#include <stdlib.h>

enum { RECORDS = 400 };

/* Eight times the twenty bytes of which a reason may be the beginning. */
#define REASON  "twenty bytes of text"
#define REASONS REASON REASON REASON REASON REASON REASON REASON REASON

enum model_state { NEW, SENT, READY, DELAYED, DONE };

/* What a consumer should be, record by record. */
struct model {
    enum model_state state[RECORDS + 1];
    uint32_t deliveries[RECORDS + 1];
    uint64_t deadline[RECORDS + 1];
    uint32_t owner[RECORDS + 1];
    bool matching[RECORDS + 1];
    int subject[RECORDS + 1];
    bool ahead[RECORDS + 1];   /* NEW, and delivered before those that are not */
    uint64_t letters[RECORDS]; /* given up and not stored yet, in this order */
    bool terms[RECORDS];
    size_t letter_count;
    uint64_t exhausted;
    uint32_t out;
    pd_consumer_config config;
};

struct bench {
    struct pd_log log;
    struct pd_consumer consumer;
    struct pd_selection selection;
    struct model model;
    const char *filter;
    char journal[512];
    uint64_t now;
};

static const char *const subjects[] = {"a.x", "a.y", "b"};

static void fill_log(struct bench *bench)
{
    uint8_t batch[8192];
    struct pd_batch_header header;
    CHECK_EQUAL(pd_log_open(&bench->log, fresh_directory(0), &small_segments, NULL), PD_OK);
    while (bench->log.last_sequence < RECORDS) {
        struct item items[20];
        uint32_t count = 1 + random_below(20);
        if (count > RECORDS - bench->log.last_sequence)
            count = (uint32_t)(RECORDS - bench->log.last_sequence);
        uint32_t variety = 1 + random_below(3); /* some batches have one subject only */
        for (uint32_t i = 0; i < count; i++) {
            uint64_t sequence = bench->log.last_sequence + 1 + i;
            bench->model.subject[sequence] = (int)random_below(variety);
            items[i] = (struct item){subjects[bench->model.subject[sequence]], NULL, "12345678", 8};
            bench->model.matching[sequence] = bench->filter[0] == '>' || items[i].subject[0] == bench->filter[0];
        }
        make_batch(batch, items, count);
        memcpy(&header, batch, sizeof header);
        CHECK_EQUAL(pd_log_append(&bench->log, &header, batch + PD_BATCH_HEADER, 1, NULL), PD_OK);
    }
    sync_log(&bench->log);
}

static void open_consumer(struct bench *bench)
{
    CHECK_EQUAL(pd_consumer_init(&bench->consumer, "c", bench->filter, &bench->model.config, bench->journal,
                                 &bench->log, &bench->selection, NULL, NULL),
                PD_OK);
}

static void set_up(struct bench *bench, const char *filter, uint32_t max_deliver, uint32_t max_ack_pending)
{
    memset(bench, 0, sizeof *bench);
    bench->filter = filter;
    bench->now = 1000;
    bench->model.config = (pd_consumer_config){
        .start_sequence = 1, .ack_wait_ns = 100, .max_deliver = max_deliver, .max_ack_pending = max_ack_pending};
    fill_log(bench);
    snprintf(bench->journal, sizeof bench->journal, "%s/c.state", fresh_directory(1));
    open_consumer(bench);
}

static void tear_down(struct bench *bench)
{
    pd_consumer_fini(&bench->consumer);
    pd_log_close(&bench->log);
    pd_selection_fini(&bench->selection);
}

static uint64_t patience(const struct model *model, int i)
{
    uint32_t steps = model->config.backoff_count;
    uint32_t step = model->deliveries[i] < steps ? model->deliveries[i] : steps;
    return steps == 0 ? model->config.ack_wait_ns : model->config.backoff_ns[step - 1];
}

static void model_dies(struct model *model, int i, bool term)
{
    model->state[i] = DONE;
    model->exhausted++;
    model->out--;
    if (model->config.dead_letter_subject[0] == 0)
        return;
    model->terms[model->letter_count] = term;
    model->letters[model->letter_count++] = (uint64_t)i;
}

static void model_back(struct model *model, int i)
{
    if (model->config.max_deliver != 0 && model->deliveries[i] >= model->config.max_deliver) {
        model_dies(model, i, false);
    } else {
        model->state[i] = READY;
    }
}

static void take(struct bench *bench, uint32_t most, uint32_t owner)
{
    struct model *model = &bench->model;
    struct pd_fetch fetch = {.max_records = most, .max_bytes = 1 << 20, .owner = owner};
    CHECK_EQUAL(pd_consumer_take(&bench->consumer, &bench->log, RECORDS, &bench->selection, &fetch, bench->now, NULL),
                PD_OK);
    size_t at = 0;
    for (int pass = 0; pass < 3; pass++)
        for (int i = 1; i <= RECORDS; i++) {
            bool fresh = model->state[i] == NEW && model->matching[i] && model->ahead[i] == (pass == 1) &&
                         model->out + model->letter_count < model->config.max_ack_pending;
            bool wanted = pass == 0 ? model->state[i] == READY : fresh;
            if (!wanted || at == most)
                continue;
            model->ahead[i] = false;
            model->out += pass > 0;
            model->state[i] = SENT;
            model->deliveries[i]++;
            model->deadline[i] = bench->now + patience(model, i);
            model->owner[i] = owner;
            if (at < bench->selection.count) {
                CHECK_EQUAL(bench->selection.picks[at].sequence, i);
                CHECK_EQUAL(bench->selection.picks[at].deliveries, model->deliveries[i]);
            }
            at++;
        }
    CHECK_EQUAL(bench->selection.count, at);
}

static void ack(struct bench *bench)
{
    struct model *model = &bench->model;
    pd_ack acks[8] = {0};
    uint32_t count = 1 + random_below(8);
    struct pd_acks reasons = {acks, count, (const uint8_t *)REASONS, 0};
    uint32_t known;
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < count; i++) {
        acks[i].sequence = 1 + random_below(RECORDS + 5);
        acks[i].kind = (uint8_t)(random_below(3) == 0 ? random_below(4) : 0);
        acks[i].delay_ms = random_below(2);
        acks[i].reason_length = acks[i].kind == PD_ACK_TERM && random_below(2) == 0 ? (uint16_t)random_below(20) : 0;
        reasons.reasons_length += acks[i].reason_length;
    }
    CHECK_EQUAL(pd_acks_check(&reasons, NULL), PD_OK);
    CHECK_EQUAL(pd_consumer_ack_all(&bench->consumer, &reasons, bench->now, &known, NULL), PD_OK);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = acks[i].sequence;
        if (at > RECORDS || model->state[at] == NEW || model->state[at] == DONE)
            continue;
        wanted++;
        if (acks[i].kind == PD_ACK_DONE && model->config.ack_policy == PD_ACK_ALL) {
            for (uint64_t before = 1; before <= at; before++)
                if (model->state[before] != NEW && model->state[before] != DONE) {
                    model->state[before] = DONE;
                    model->out--;
                }
        } else if (acks[i].kind == PD_ACK_DONE) {
            model->state[at] = DONE;
            model->out--;
        } else if (acks[i].kind == PD_ACK_TERM) {
            model_dies(model, (int)at, true);
        } else if (acks[i].kind == 2 && model->state[at] == SENT) {
            model->deadline[at] = bench->now + patience(model, (int)at);
        } else if (acks[i].kind == 1 && model->state[at] == SENT) {
            model_back(model, (int)at);
            if (model->state[at] == READY && acks[i].delay_ms > 0) {
                model->state[at] = DELAYED;
                model->deadline[at] = bench->now + acks[i].delay_ms * 1000000u;
            }
        }
    }
    CHECK_EQUAL(known, wanted);
}

static void tick(struct bench *bench)
{
    struct model *model = &bench->model;
    bench->now += random_below(10) == 0 ? 2000000 : random_below(150);
    uint64_t next = pd_consumer_tick(&bench->consumer, bench->now);
    for (int i = 1; i <= RECORDS; i++) {
        bool waits = model->state[i] == SENT || model->state[i] == DELAYED;
        if (!waits || model->deadline[i] > bench->now) {
            CHECK(!waits || next <= model->deadline[i]);
            continue;
        }
        if (model->state[i] == SENT)
            model_back(model, i);
        else
            model->state[i] = READY;
    }
}

static void release(struct bench *bench)
{
    uint32_t owner = 1 + random_below(3);
    pd_consumer_release(&bench->consumer, owner);
    for (int i = 1; i <= RECORDS; i++)
        if (bench->model.state[i] == SENT && bench->model.owner[i] == owner)
            model_back(&bench->model, i);
}

static void reopen(struct bench *bench)
{
    pd_consumer_fini(&bench->consumer);
    open_consumer(bench);
    for (int i = 1; i <= RECORDS; i++)
        if (bench->model.state[i] == SENT || bench->model.state[i] == DELAYED || bench->model.state[i] == READY)
            model_back(&bench->model, i);
}

static void limits_change(struct bench *bench)
{
    struct model *model = &bench->model;
    model->config.max_deliver = random_below(4);
    model->config.max_ack_pending = 5 + random_below(40);
    CHECK_EQUAL(pd_consumer_change(&bench->consumer, &model->config, NULL), PD_OK);
    for (int i = 1; i <= RECORDS; i++)
        if (model->state[i] == READY || model->state[i] == DELAYED) {
            enum model_state was = model->state[i];
            model_back(model, i);
            model->state[i] = model->state[i] == READY ? was : model->state[i];
        }
}

/* To a sequence, or to the newest of each subject below it and then to it. */
static void seek(struct bench *bench)
{
    struct model *model = &bench->model;
    struct pd_picks ahead = {0};
    uint64_t to = 1 + random_below(RECORDS + 3);
    memset(model->state, 0, sizeof model->state);
    memset(model->ahead, 0, sizeof model->ahead);
    memset(model->deliveries, 0, sizeof model->deliveries);
    model->out = 0;
    for (uint64_t i = 1; i < to && i <= RECORDS; i++)
        model->state[i] = DONE;
    if (random_below(2) == 0) {
        uint64_t before = to - 1 < RECORDS ? to - 1 : RECORDS;
        struct pd_span filter = {(const uint8_t *)bench->filter, (uint32_t)strlen(bench->filter)};
        CHECK_EQUAL(pd_newest_collect(&bench->log, filter, &bench->selection, before, &ahead, NULL), PD_OK);
        for (int subject = 0; subject < 3; subject++)
            for (uint64_t i = before; i >= 1; i--)
                if (model->matching[i] && model->subject[i] == subject) {
                    model->state[i] = NEW;
                    model->ahead[i] = true;
                    break;
                }
    }
    CHECK_EQUAL(pd_consumer_seek_to(&bench->consumer, &bench->log, to, &ahead, &bench->selection, NULL), PD_OK);
    CHECK(ahead.sequences == NULL);
}

/* Some of the letters are stored. */
static void post(struct bench *bench)
{
    struct model *model = &bench->model;
    struct pd_letter posted[RECORDS];
    if (model->letter_count == 0)
        return;
    size_t count = 1 + random_below((uint32_t)model->letter_count);
    memcpy(posted, bench->consumer.letters.items + bench->consumer.letters.start, count * sizeof *posted);
    CHECK_EQUAL(pd_consumer_posted(&bench->consumer, posted, count, NULL), PD_OK);
    CHECK_EQUAL(pd_consumer_posted(&bench->consumer, posted, count, NULL), PD_OK); /* they are none any more */
    model->letter_count -= count;
    memmove(model->letters, model->letters + count, model->letter_count * sizeof *model->letters);
    memmove(model->terms, model->terms + count, model->letter_count * sizeof *model->terms);
}

static void compare_letters(const struct bench *bench)
{
    const struct model *model = &bench->model;
    const struct pd_letters *letters = &bench->consumer.letters;
    CHECK_EQUAL(pd_letters_count(letters), model->letter_count);
    for (size_t i = 0; i < model->letter_count && i < pd_letters_count(letters); i++) {
        const struct pd_letter *letter = &letters->items[letters->start + i];
        CHECK_EQUAL(letter->sequence, model->letters[i]);
        CHECK_EQUAL(letter->term, model->terms[i]);
        CHECK(letter->term || letter->reason_length == 0);
        CHECK(letter->reason_length == 0 ||
              memmem(REASONS, strlen(REASONS), letter->reason, letter->reason_length) != NULL);
        CHECK(letter->epoch != 0 && letter->epoch <= bench->consumer.epoch);
    }
}

static void compare(struct bench *bench)
{
    const struct model *model = &bench->model;
    compare_letters(bench);
    pd_consumer_info info;
    pd_consumer_info_fill(&bench->consumer, &info);
    uint64_t pending = 0;
    uint64_t lowest = 0;
    for (int i = RECORDS; i >= 1; i--) {
        pending += model->state[i] == NEW && model->matching[i];
        if (model->state[i] == SENT || model->state[i] == READY || model->state[i] == DELAYED || model->ahead[i])
            lowest = (uint64_t)i;
    }
    for (size_t i = 0; i < model->letter_count; i++)
        lowest = lowest == 0 || model->letters[i] < lowest ? model->letters[i] : lowest;
    CHECK_EQUAL(info.pending, pending);
    CHECK_EQUAL(info.ack_pending, model->out);
    CHECK_EQUAL(info.exhausted, model->exhausted);
    if (lowest != 0)
        CHECK_EQUAL(info.ack_floor, lowest - 1);
}

static void random_use(const char *filter, uint32_t max_deliver, uint32_t max_ack_pending, uint32_t ack_policy,
                       uint32_t backoff_count, const char *dead)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, filter, max_deliver, max_ack_pending);
    bench->model.config.ack_policy = ack_policy;
    bench->model.config.backoff_count = backoff_count;
    strcpy(bench->model.config.dead_letter_subject, dead);
    for (uint32_t i = 0; i < backoff_count; i++)
        bench->model.config.backoff_ns[i] = 50 + random_below(150);
    CHECK_EQUAL(pd_consumer_change(&bench->consumer, &bench->model.config, NULL), PD_OK);
    for (int step = 0; step < 1500; step++) {
        uint32_t what = random_below(20);
        if (what < 6)
            take(bench, 1 + random_below(30), 1 + random_below(3));
        else if (what < 14)
            ack(bench);
        else if (what < 18)
            tick(bench);
        else if (what < 19)
            release(bench);
        else if (random_below(3) == 0)
            post(bench);
        else if (random_below(3) > 0)
            reopen(bench);
        else if (random_below(2) == 0)
            limits_change(bench);
        else
            seek(bench);
        compare(bench);
    }
    tear_down(bench);
    free(bench);
}

static void a_journal_is_written_anew(void)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, ">", 0, 10);
    for (int round = 0; round < 40000; round++) { /* one delivery, many times: 16 bytes each */
        take(bench, 1, 1);
        pd_consumer_release(&bench->consumer, 1);
        bench->model.state[1] = READY;
    }
    CHECK(file_size(bench->journal) < 1100000);
    for (int round = 0; round < 40000; round++) {
        take(bench, 1, 1);
        pd_consumer_release(&bench->consumer, 1);
        bench->model.state[1] = READY;
    }
    CHECK(file_size(bench->journal) < 1100000);
    reopen(bench);
    CHECK_EQUAL(pd_outstanding_find(&bench->consumer.out, 1)->deliveries, 65535); /* the journal's largest */
    tear_down(bench);
    free(bench);
}

static void a_log_that_lost_its_end(void)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, ">", 0, 1000);
    take(bench, RECORDS, 1);
    CHECK_EQUAL(bench->consumer.next_sequence, RECORDS + 1);
    pd_consumer_fini(&bench->consumer);
    pd_log_close(&bench->log);
    CHECK_EQUAL(pd_log_open(&bench->log, fresh_directory(0), &small_segments, NULL), PD_OK);
    for (int i = 0; i < 10; i++) /* the power failed, and only these are there */
        append_records(&bench->log, 10, true);
    open_consumer(bench);
    pd_consumer_info info;
    pd_consumer_info_fill(&bench->consumer, &info);
    CHECK_EQUAL(info.ack_pending, 100);
    CHECK_EQUAL(info.delivered_sequence, 100);
    CHECK_EQUAL(bench->consumer.next_sequence, 101);
    pd_consumer_fini(&bench->consumer);
    append_records(&bench->log, 10, true);
    open_consumer(bench);
    CHECK_EQUAL(bench->consumer.pending, 10);
    tear_down(bench);
    free(bench);
}

static void retention_passes_the_cursor(void)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, "a.*", 0, 1000);
    take(bench, 5, 1);
    uint64_t first = bench->log.segments[1]->base;
    uint64_t pending = 0;
    for (uint64_t i = first; i <= RECORDS; i++)
        pending += bench->model.matching[i];
    pd_consumer_skip_to(&bench->consumer, &bench->log, first, &bench->selection);
    drop_oldest(&bench->log);
    CHECK_EQUAL(bench->consumer.pending, pending);
    CHECK_EQUAL(bench->consumer.out.live, 0);
    reopen(bench);
    CHECK_EQUAL(bench->consumer.pending, pending);
    tear_down(bench);
    free(bench);
}

static void ack_none_is_done_at_once(void)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, "a.*", 0, 1);
    pd_consumer_fini(&bench->consumer);
    bench->model.config.ack_policy = PD_ACK_NONE;
    open_consumer(bench);
    struct pd_fetch fetch = {.max_records = 7, .max_bytes = 1 << 20};
    uint64_t before = bench->consumer.pending;
    for (int round = 0; round < 3; round++) {
        CHECK_EQUAL(pd_consumer_take(&bench->consumer, &bench->log, RECORDS, &bench->selection, &fetch, 1, NULL),
                    PD_OK);
        CHECK_EQUAL(bench->selection.count, 7);
    }
    uint64_t last = bench->selection.picks[6].sequence;
    pd_consumer_fini(&bench->consumer);
    open_consumer(bench);
    CHECK_EQUAL(bench->consumer.pending, before - 21);
    CHECK_EQUAL(pd_consumer_take(&bench->consumer, &bench->log, RECORDS, &bench->selection, &fetch, 1, NULL), PD_OK);
    CHECK(bench->selection.picks[0].sequence > last);
    tear_down(bench);
    free(bench);
}

static void bytes_bound_a_fetch(void)
{
    struct bench *bench = malloc(sizeof *bench);
    set_up(bench, ">", 0, 1000);
    struct pd_fetch fetch = {.max_records = 100, .max_bytes = 100};
    CHECK_EQUAL(pd_consumer_take(&bench->consumer, &bench->log, RECORDS, &bench->selection, &fetch, 1, NULL), PD_OK);
    CHECK_EQUAL(bench->selection.count, 3); /* of 32 bytes each */
    fetch.max_bytes = 1;
    CHECK_EQUAL(pd_consumer_take(&bench->consumer, &bench->log, RECORDS, &bench->selection, &fetch, 1, NULL), PD_OK);
    CHECK_EQUAL(bench->selection.count, 1);
    CHECK_EQUAL(bench->selection.picks[0].sequence, 4);
    tear_down(bench);
    free(bench);
}

void test_consumer(void)
{
    random_use(">", 0, 50, PD_ACK_EXPLICIT, 0, "");
    random_use("a.*", 3, 20, PD_ACK_EXPLICIT, 3, "dead");
    random_use("a.*", 1, 400, PD_ACK_ALL, 0, "dead");
    random_use("b", 0, 5, PD_ACK_EXPLICIT, 1, "dead");
    random_use(">", 2, 60, PD_ACK_ALL, PD_BACKOFF_MAX, "");
    a_journal_is_written_anew();
    a_log_that_lost_its_end();
    retention_passes_the_cursor();
    ack_none_is_done_at_once();
    bytes_bound_a_fetch();
}
