/* Messages of plain nng programs: what is a record, what is a batch, and what is made of them. */
#include "check.h"
#include "plain.h"

#include <stdlib.h>

static pd_error error;

static int parse(const char *message, size_t length, struct pd_plain *plain)
{
    return pd_plain_parse((const uint8_t *)message, length, 10, plain, &error);
}

static void parsing(void)
{
    struct pd_plain plain;
    CHECK_EQUAL(parse("a.b\n\n0\0", 7, &plain), PD_OK);
    CHECK_EQUAL(plain.subject.length, 3);
    CHECK(plain.payload.length == 3 && memcmp(plain.payload.data, "\n0\0", 3) == 0);
    CHECK_EQUAL(parse("a\n", 2, &plain), PD_OK);
    CHECK_EQUAL(plain.payload.length, 0);
    CHECK_EQUAL(parse("a\n0123456789", 12, &plain), PD_OK);
    CHECK_EQUAL(parse("a\n0123456789A", 13, &plain), PD_TOO_LARGE);
    CHECK(strstr(error.text, "11 bytes") != NULL && strstr(error.text, "limit is 10") != NULL);
    CHECK_EQUAL(parse("", 0, &plain), PD_INVALID);
    CHECK_EQUAL(parse("a.b", 3, &plain), PD_INVALID);
    CHECK(strstr(error.text, "line feed") != NULL);
    CHECK_EQUAL(parse("\npayload", 8, &plain), PD_INVALID);
    CHECK_EQUAL(parse("a..b\nx", 6, &plain), PD_INVALID);
    CHECK_EQUAL(parse("a b\nx", 5, &plain), PD_INVALID);
    CHECK_EQUAL(parse("a.>\nx", 5, &plain), PD_INVALID);
    char longest[PD_NAME_MAX * 5];
    memset(longest, 'a', sizeof longest);
    longest[255] = '\n';
    CHECK_EQUAL(parse(longest, 256, &plain), PD_OK);
    longest[255] = 'a';
    longest[256] = '\n';
    CHECK_EQUAL(parse(longest, 257, &plain), PD_INVALID);
    CHECK(pd_plain_is_batch((const uint8_t *)"PDB1", 4));
    CHECK(!pd_plain_is_batch((const uint8_t *)"PDB", 3));
    CHECK(!pd_plain_is_batch((const uint8_t *)"PDB\n", 4));
}

static struct pd_plain record(const char *subject, const char *payload)
{
    return (struct pd_plain){{(const uint8_t *)subject, (uint32_t)strlen(subject)},
                             {(const uint8_t *)payload, (uint32_t)strlen(payload)}};
}

static bool add(struct pd_plain_batch *batch, const char *subject, const char *payload, size_t room)
{
    struct pd_plain plain = record(subject, payload);
    return pd_plain_add(batch, &plain, room);
}

/* What is written passes the check that everything from outside has to pass. */
static struct pd_batch_header written(const struct pd_plain_batch *batch, uint8_t *out)
{
    const struct pd_batch_limits limits = {1 << 20, 1 << 20};
    struct pd_batch_header header = {0};
    size_t length = pd_plain_length(batch);
    memset(out, 0xff, length);
    pd_plain_write(batch, 77, out);
    CHECK_EQUAL(pd_batch_check(out, length, &limits, &header, &error), PD_OK);
    return header;
}

static void writing(void)
{
    static struct pd_plain_batch batch;
    static uint8_t out[1 << 16];
    struct pd_span subjects[2];
    struct pd_record first;
    pd_plain_begin(&batch);
    CHECK(add(&batch, "a.b", "one", 1000));
    CHECK(add(&batch, "c", "", 1000));
    CHECK(add(&batch, "a.b", "three three three", 1000));
    struct pd_batch_header header = written(&batch, out);
    CHECK(header.subject_count == 2 && header.record_count == 3);
    pd_batch_subjects(out, &header, subjects);
    CHECK(subjects[0].length == 3 && memcmp(subjects[1].data, "c", 1) == 0);
    CHECK(pd_record_load(out + header.records_offset, header.length - header.records_offset, &first));
    CHECK(first.time_ns == 77 && first.subject == 0 && first.payload_length == 3 && first.id_length == 0);
    CHECK(memcmp(out + header.records_offset + PD_RECORD_HEADER, "one", 3) == 0);
}

static void bounds(void)
{
    static struct pd_plain_batch batch;
    static uint8_t out[1 << 16];
    char subject[8];
    pd_plain_begin(&batch);
    CHECK(add(&batch, "a", "more than there is room for, but the first", 8));
    CHECK(!add(&batch, "a", "", 8));
    CHECK_EQUAL(written(&batch, out).record_count, 1);
    pd_plain_begin(&batch);
    for (uint32_t i = 0; i < PD_PLAIN_SUBJECTS; i++) {
        snprintf(subject, sizeof subject, "s%u", i);
        char *kept = strdup(subject); /* the batch points at it */
        CHECK(add(&batch, kept, "x", sizeof out));
    }
    CHECK(!add(&batch, "another", "x", sizeof out));
    CHECK(add(&batch, "s0", "x", sizeof out));
    CHECK_EQUAL(written(&batch, out).subject_count, PD_PLAIN_SUBJECTS);
    for (uint32_t i = 0; i < PD_PLAIN_SUBJECTS; i++)
        free((void *)batch.subjects[i].data);
    pd_plain_begin(&batch);
    for (uint32_t i = 0; i < PD_PLAIN_RECORDS; i++)
        CHECK(add(&batch, "a", "x", sizeof out));
    CHECK(!add(&batch, "a", "x", sizeof out));
    CHECK_EQUAL(written(&batch, out).record_count, PD_PLAIN_RECORDS);
}

void test_plain(void)
{
    parsing();
    writing();
    bounds();
}
