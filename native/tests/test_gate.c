/* The gate: what waits there, in which order it leaves, and that stopping answers everybody. */
#include "check.h"

#include "../src/engine.h"
#include "streams.h"

#include <poll.h>
#include <stdlib.h>

#define BATCHES 3

struct publisher {
    struct pd_pending pending; /* first: finish gets its address */
    struct pd_gated gated;
    uint8_t batch[4096];
    uint64_t sequence;
    int status; /* -1: not answered */
};

static void stored(struct pd_pending *pending)
{
    struct publisher *publisher = (struct publisher *)pending;
    publisher->status = pending->status;
    publisher->sequence = pending->first_sequence;
    free(pending->bitmap);
}

static void refused(struct pd_gated *gated, int status, const char *why)
{
    struct publisher *publisher = (struct publisher *)((char *)gated - offsetof(struct publisher, gated));
    CHECK(strlen(why) > 0);
    publisher->status = status;
}

/* As the broker does it. */
static int publish(struct stream_rig *rig, struct publisher *publisher, uint32_t number)
{
    struct pd_gated *gated = &publisher->gated;
    const struct pd_expectation any = {PD_NO_EXPECTATION, PD_NO_EXPECTATION};
    size_t length = make_numbered(publisher->batch, "s", "id", number, 1, 10);
    *gated = (struct pd_gated){
        .pending = &publisher->pending, .expect = any, .durability = PD_DURABLE_OS, .refuse = refused};
    publisher->pending.finish = stored;
    publisher->status = -1;
    int rc = pd_engine_accept(rig->engine, "s", publisher->batch, length, &gated->batch, &gated->stream, &rig->error);
    CHECK_EQUAL(rc, PD_OK);
    rc = pd_stream_append(gated->stream, &gated->batch, PD_DURABLE_OS, &any, &publisher->pending, &rig->error);
    CHECK_EQUAL(rc, PD_UNCHECKED);
    rc = pd_gate_park(&rig->engine->gate, gated, &rig->error);
    if (rc != PD_OK)
        pd_stream_unref(gated->stream);
    return rc;
}

static bool readable(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return poll(&wait, 1, 0) == 1;
}

static void start(struct stream_rig *rig, int *gate_fd)
{
    rig_start(rig, fresh_directory(0), &(pd_stream_config){.validate = 1});
    if (gate_fd != NULL)
        CHECK_EQUAL(pd_gate_open(rig->engine, gate_fd, &rig->error), PD_OK);
}

static void nobody_checks(void)
{
    struct stream_rig rig;
    struct publisher publisher;
    pd_stream_info info;
    start(&rig, NULL);
    CHECK_EQUAL(publish(&rig, &publisher, 1), PD_UNCHECKED);
    CHECK(strstr(rig.error.text, "nobody checks") != NULL);
    rig_info(&rig, &info);
    CHECK_EQUAL(info.last_sequence, 0);
    rig_stop(&rig);
}

static void answers_append_and_refuse_in_their_order(void)
{
    struct stream_rig rig;
    struct publisher publishers[BATCHES];
    pd_stream_info info;
    uint64_t tokens[BATCHES];
    char stream[64];
    uint8_t *batch;
    size_t length;
    uint32_t apart;
    int fd;
    start(&rig, &fd);
    CHECK_EQUAL(pd_gate_open(rig.engine, &fd, &rig.error), PD_EXISTS);
    fd = rig.engine->gate.event_fd;
    CHECK(!readable(fd));
    for (uint32_t i = 0; i < BATCHES; i++)
        CHECK_EQUAL(publish(&rig, &publishers[i], i), PD_OK);
    CHECK(readable(fd));
    for (int i = 0; i < BATCHES; i++) {
        CHECK_EQUAL(pd_gate_take(rig.engine, &tokens[i], stream, &batch, &length, &apart), 1);
        CHECK(strcmp(stream, "s") == 0 && length == publishers[i].gated.batch.header.length);
        CHECK(memcmp(batch, publishers[i].batch, length) == 0);
        pd_block_free(batch);
    }
    CHECK_EQUAL(pd_gate_take(rig.engine, &tokens[0], stream, &batch, &length, &apart), 0);
    CHECK(!readable(fd));
    pd_gate_answer(rig.engine, tokens[1], PD_OK, "");
    pd_gate_answer(rig.engine, tokens[0], PD_INVALID, "record 0 does not fit");
    pd_gate_answer(rig.engine, tokens[2], PD_OK, "");
    pd_gate_answer(rig.engine, tokens[2], PD_OK, ""); /* known no more */
    CHECK(publishers[0].status == PD_INVALID && publishers[1].status == PD_OK && publishers[2].status == PD_OK);
    CHECK(publishers[1].sequence == 1 && publishers[2].sequence == 2);
    CHECK_EQUAL(publish(&rig, &publishers[0], 7), PD_OK); /* the list is whole again */
    CHECK_EQUAL(pd_gate_take(rig.engine, &tokens[0], stream, &batch, &length, &apart), 1);
    pd_block_free(batch);
    pd_gate_answer(rig.engine, tokens[0], PD_OK, "");
    rig_info(&rig, &info);
    CHECK_EQUAL(info.last_sequence, 3);
    rig_stop(&rig);
}

static void it_holds_no_more_than_its_bound(void)
{
    static struct publisher publishers[PD_GATE_BATCHES + 1];
    struct stream_rig rig;
    int fd;
    start(&rig, &fd);
    for (uint32_t i = 0; i < PD_GATE_BATCHES; i++)
        CHECK_EQUAL(publish(&rig, &publishers[i], i), PD_OK);
    CHECK_EQUAL(publish(&rig, &publishers[PD_GATE_BATCHES], 1), PD_LIMIT_REACHED);
    CHECK(strstr(rig.error.text, "128") != NULL);
    pd_engine_stop(rig.engine);
    for (uint32_t i = 0; i < PD_GATE_BATCHES; i++)
        CHECK_EQUAL(publishers[i].status, PD_STOPPING);
    pd_engine_free(rig.engine);
}

static void stopping_answers_what_was_taken(void)
{
    struct stream_rig rig;
    struct publisher publisher;
    uint64_t token;
    char stream[64];
    uint8_t *batch;
    size_t length;
    uint32_t apart;
    int fd;
    start(&rig, &fd);
    CHECK_EQUAL(publish(&rig, &publisher, 1), PD_OK);
    CHECK_EQUAL(pd_gate_take(rig.engine, &token, stream, &batch, &length, &apart), 1);
    pd_engine_stop(rig.engine);
    CHECK_EQUAL(publisher.status, PD_STOPPING);
    CHECK(length > 64 && batch[0] == 0x50); /* the copy is still there */
    pd_block_free(batch);
    pd_gate_answer(rig.engine, token, PD_OK, ""); /* too late, and nothing happens */
    CHECK_EQUAL(publisher.status, PD_STOPPING);
    pd_engine_free(rig.engine);
}

struct apart {
    uint32_t refused;
    struct publisher publisher;
};

static void refused_some(struct pd_gated *gated, uint32_t records, const char *why)
{
    struct apart *apart = (struct apart *)((char *)gated - offsetof(struct apart, publisher.gated));
    CHECK(strcmp(why, "the others do not fit") == 0);
    apart->refused += records;
}

static void records_of_several_publishers_are_taken_apart(void)
{
    struct stream_rig rig;
    struct apart one = {0};
    pd_stream_info info;
    uint8_t rest[4096];
    uint64_t token;
    char stream[64];
    uint8_t *batch;
    size_t length;
    uint32_t apart;
    int fd;
    start(&rig, &fd);
    for (int turn = 0; turn < 3; turn++) {
        CHECK_EQUAL(publish(&rig, &one.publisher, (uint32_t)turn), PD_OK);
        one.publisher.gated.refuse_some = turn < 2 ? refused_some : NULL;
        CHECK_EQUAL(pd_gate_take(rig.engine, &token, stream, &batch, &length, &apart), 1);
        CHECK_EQUAL(apart, turn < 2 ? PD_GATE_APART : 0);
        pd_block_free(batch);
        length = make_numbered(rest, "s", "other", (uint32_t)turn, 1, 10);
        rest[length - 1] ^= turn == 1; /* damaged: nothing of it may get in */
        pd_gate_answer_rest(rig.engine, token, rest, length, 4, "the others do not fit");
        pd_gate_answer_rest(rig.engine, token, rest, length, 4, "known no more");
        CHECK_EQUAL(one.publisher.status == PD_OK, turn == 0);
        CHECK_EQUAL(one.refused, 4);
    }
    rig_info(&rig, &info);
    CHECK_EQUAL(info.last_sequence, 1);
    rig_stop(&rig);
}

void test_gate(void)
{
    records_of_several_publishers_are_taken_apart();
    nobody_checks();
    answers_append_and_refuse_in_their_order();
    it_holds_no_more_than_its_bound();
    stopping_answers_what_was_taken();
}
