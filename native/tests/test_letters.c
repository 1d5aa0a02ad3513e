/* Dead letters and what is told: the format of a letter, UTF-8, the ring of advisories, tellings on a clock of ours. */
#include "advisory.h"
#include "check.h"
#include "consumer.h"
#include "letters.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A record with an id and headers as they are on the wire. */
static struct pd_letter_origin origin(uint8_t *record, const char *id, const void *headers, size_t headers_length)
{
    struct pd_record about = {.id_length = (uint16_t)strlen(id),
                              .headers_length = (uint32_t)headers_length,
                              .payload_length = 7,
                              .time_ns = 5};
    uint8_t *at = record + sizeof about;
    about.length = (uint32_t)pd_align8(sizeof about + about.id_length + headers_length + 7);
    memcpy(record, &about, sizeof about);
    memcpy(at, id, about.id_length);
    memcpy(at + about.id_length, headers, headers_length);
    memcpy(at + about.id_length + headers_length, "payload", 7);
    return (struct pd_letter_origin){"s", "c", {(const uint8_t *)"a.b", 3}, record, about};
}

/* Write the letter into a batch of its own, which must be one; its headers. */
static struct pd_span letter_headers(const struct pd_letter *letter, const struct pd_letter_origin *from,
                                     const char *wanted_id)
{
    static uint8_t batch[32768];
    struct pd_batch_limits limits = {sizeof batch, sizeof batch};
    struct pd_batch_header header;
    struct pd_record record;
    size_t offset = pd_letter_batch_begin(batch, "dead.letters");
    size_t length = offset + pd_letter_write(letter, from, batch + offset);
    CHECK(length - offset <= from->about.length + PD_LETTER_ROOM);
    pd_letter_batch_end(batch, length, 1, &header);
    CHECK_EQUAL(pd_batch_check(batch, length, &limits, &header, NULL), PD_OK);
    CHECK(pd_record_load(batch + offset, length - offset, &record));
    const uint8_t *id = batch + offset + PD_RECORD_HEADER;
    CHECK(record.id_length == strlen(wanted_id) && memcmp(id, wanted_id, record.id_length) == 0);
    const uint8_t *payload = id + record.id_length + record.headers_length;
    CHECK(record.payload_length == 7 && memcmp(payload, "payload", 7) == 0 && record.time_ns == 5);
    return (struct pd_span){id + record.id_length, record.headers_length};
}

static bool has(struct pd_span text, const char *wanted)
{
    return memmem(text.data, text.length, wanted, strlen(wanted)) != NULL;
}

static void letters_are_records(void)
{
    uint8_t record[8192];
    struct pd_letter letter = {.sequence = 17, .epoch = 99, .deliveries = 3};
    struct pd_letter_origin from = origin(record, "", "", 0);
    struct pd_span headers = letter_headers(&letter, &from, "s/c/17/99");
    CHECK(headers.data[0] == 0xdf && headers.data[4] == 6);
    CHECK(has(headers, "max_deliver") && has(headers, "a.b") && !has(headers, "Dead-Msg-Id"));

    letter.term = true;
    letter.reason = (char *)"because";
    letter.reason_length = 7;
    from = origin(record, "id",
                  "\x82\xa1k\xa1v\xab"
                  "Dead-Reason\xd9\x03"
                  "old",
                  22);
    headers = letter_headers(&letter, &from, "s/c/17/99");
    CHECK_EQUAL(headers.data[4], 8); /* k, and seven of ours */
    CHECK(has(headers, "term:because") && has(headers, "Dead-Msg-Id") && has(headers, "\xa1k\xa1v"));
    CHECK(!has(headers, "old"));

    /* What is no map of strings is left out: cut off anywhere, numbers, lengths beyond the end. */
    const char *const broken[] = {"\x82\xa1k\xa1v",    "\x81\xa1k\x05", "\xdf\xff\xff\xff\xff",
                                  "\xde\x01",          "\x81\xdb",      "\x81\xda\xff\xff",
                                  "\x81\xa1k\xd9\xff", "\x93",          "\xc0"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        from = origin(record, "\xff\xfe", broken[i], strlen(broken[i]));
        headers = letter_headers(&letter, &from, "s/c/17/99");
        CHECK_EQUAL(headers.data[4], 6); /* an id that is no UTF-8 could not be read as a header either */
    }
    for (int round = 0; round < 20000; round++) {
        uint8_t noise[64];
        size_t length = random_below(sizeof noise);
        for (size_t i = 0; i < length; i++)
            noise[i] = (uint8_t)(random_below(3) == 0 ? 0x81 + random_below(0x60) : random_below(256));
        from = origin(record, "x", noise, length);
        letter_headers(&letter, &from, "s/c/17/99");
    }
}

static void long_names_fit(void)
{
    uint8_t record[8192];
    char name[64];
    char id[256];
    char reason[PD_REASON_MAX];
    char subject[255];
    memset(name, 'n', 63);
    name[63] = 0;
    memset(id, 'i', 255);
    id[255] = 0;
    memset(reason, 'r', sizeof reason);
    memset(subject, 's', sizeof subject);
    struct pd_letter letter = {UINT64_MAX, UINT64_MAX, UINT32_MAX, sizeof reason, reason, true};
    struct pd_letter_origin from = origin(record, id, "", 0);
    from.stream = from.consumer = name;
    from.subject = (struct pd_span){(const uint8_t *)subject, sizeof subject};
    char wanted[256];
    snprintf(wanted, sizeof wanted, "%s/%s/18446744073709551615/18446744073709551615", name, name);
    letter_headers(&letter, &from, wanted);
}

static void utf8(void)
{
    const char *const valid[] = {"", "plain", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x94\xad", "\xf4\x8f\xbf\xbf"};
    const char *const invalid[] = {"\x80",
                                   "\xc3",
                                   "\xc0\xaf",
                                   "\xe2\x82",
                                   "\xed\xa0\x80",
                                   "\xe0\x80\x80",
                                   "\xff",
                                   "\xf4\x90\x80\x80",
                                   "\xf0\x80\x80\x80",
                                   "\xf8\x88\x80\x80",
                                   "a"
                                   "\xc3",
                                   "\xc3("};
    for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++)
        CHECK(pd_utf8_valid((const uint8_t *)valid[i], strlen(valid[i])));
    for (size_t i = 0; i < sizeof invalid / sizeof invalid[0]; i++)
        CHECK(!pd_utf8_valid((const uint8_t *)invalid[i], strlen(invalid[i])));
}

static void acknowledgements_are_checked(void)
{
    pd_ack acks[2] = {{.sequence = 1, .kind = PD_ACK_TERM, .reason_length = 3}, {.sequence = 2, .kind = PD_ACK_DONE}};
    pd_ack wrong = {.kind = 4};
    pd_ack huge = {.kind = PD_ACK_TERM, .reason_length = PD_REASON_MAX + 1};
    uint8_t text[PD_REASON_MAX + 1] = {0};
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){acks, 2, (const uint8_t *)"why", 3}, NULL), PD_OK);
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){acks, 2, (const uint8_t *)"why", 2}, NULL), PD_INVALID);
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){acks, 2, (const uint8_t *)"why!", 4}, NULL), PD_INVALID);
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){acks, 2, (const uint8_t *)"w\xff!", 3}, NULL), PD_INVALID);
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){&wrong, 1, NULL, 0}, NULL), PD_INVALID);
    CHECK_EQUAL(pd_acks_check(&(struct pd_acks){&huge, 1, text, sizeof text}, NULL), PD_INVALID);
}

static void the_ring_of_advisories(void)
{
    struct pd_advisories advisories;
    pd_advisory taken[PD_ADVISORIES_MAX];
    struct pollfd wait = {.fd = eventfd(0, EFD_NONBLOCK), .events = POLLIN};
    CHECK_EQUAL(pd_advisories_init(&advisories, wait.fd, NULL), PD_OK);
    CHECK_EQUAL(pd_advisories_drain(&advisories, taken, 8), 0);
    for (unsigned i = 0; i < PD_ADVISORIES_MAX + 5; i++)
        pd_advise(&advisories, PD_ADVISE_STALLED, "s", "c", "number %u", i);
    CHECK_EQUAL(poll(&wait, 1, 0), 1);
    CHECK_EQUAL(pd_advisories_drain(&advisories, taken, 8), 8);
    CHECK(taken[0].lost == 5 && taken[1].lost == 0 && strcmp(taken[0].detail, "number 5") == 0);
    CHECK_EQUAL(pd_advisories_drain(&advisories, taken, PD_ADVISORIES_MAX), PD_ADVISORIES_MAX - 8);
    pd_advise(&advisories, PD_ADVISE_STORAGE_FULL, "s", "", "%s", "x");
    CHECK_EQUAL(pd_advisories_drain(&advisories, taken, 8), 1);
    CHECK(taken[0].kind == PD_ADVISE_STORAGE_FULL && taken[0].lost == 0 && taken[0].consumer[0] == 0);
    pd_advisories_fini(&advisories);
    close(wait.fd);
}

/* What flutters is told at once, and then no more often than the interval allows. */
static void tellings(void)
{
    struct pd_consumer consumer = {.config.max_ack_pending = 1};
    const uint64_t second = 1000000000u;
    uint64_t exhausted;
    unsigned told = 0;
    uint64_t dead = 0;
    uint64_t told_dead = 0;
    int stalls = 0;
    int ends = 0;
    for (uint64_t now = second; now < 101 * second; now += second / 100) {
        consumer.out.live = (now / (second / 100)) % 2; /* full, and free again, a hundred times a second */
        consumer.tellings.stalled = consumer.tellings.stalled || consumer.out.live == 1;
        consumer.tellings.exhausted++;
        dead++;
        told = pd_consumer_tell(&consumer, now, &exhausted);
        stalls += (told & PD_TELL_STALLED) != 0;
        ends += (told & PD_TELL_RESUMED) != 0;
        told_dead += exhausted;
        CHECK((told & PD_TELL_EXHAUSTED) == 0 || exhausted > 0);
    }
    CHECK(stalls == ends && stalls == 10);
    CHECK(dead - told_dead < 1000);
    consumer.out.live = 1;
    consumer.tellings.stalled = true; /* told too lately: the clock tells it, though nothing happens any more */
    uint64_t due = pd_consumer_tell_due(&consumer);
    CHECK(due > 100 * second && due != UINT64_MAX);
    CHECK_EQUAL(pd_consumer_tell(&consumer, due - 1, &exhausted), 0);
    CHECK((pd_consumer_tell(&consumer, due + 10 * second, &exhausted) & PD_TELL_STALLED) != 0);
    CHECK_EQUAL(pd_consumer_tell_due(&consumer), UINT64_MAX);
}

void test_letters(void)
{
    letters_are_records();
    long_names_fit();
    utf8();
    acknowledgements_are_checked();
    the_ring_of_advisories();
    tellings();
}
