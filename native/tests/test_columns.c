/* Columns: a batch made of them passes the check, and no block makes the reader look outside of it. */
#include "check.h"

#include <stdlib.h>

static const struct pd_batch_limits limits = {1 << 20, 1 << 20};

static void a_batch_of_columns_is_one(void)
{
    const uint8_t table[] = "\3a.b\1c\0";
    const uint16_t subjects[] = {0, 1, 0};
    const uint16_t ids[] = {2, 0, 0};
    const uint32_t headers[] = {1, 0, 0};
    const uint32_t payloads[] = {5, 0, 16};
    const uint64_t times[] = {7, 0, 9};
    pd_columns columns = {
        .table = table,
        .table_length = 8,
        .subject_count = 2,
        .subjects = subjects,
        .id_lengths = ids,
        .headers_lengths = headers,
        .payload_lengths = payloads,
        .times = times,
        .now_ns = 8,
        .parts = (const uint8_t *)"idHhello0123456789abcdef",
        .parts_length = 24,
        .count = 3,
    };
    size_t size = pd_batch_size(&columns);
    CHECK_EQUAL(size, 64 + 8 + 32 + 24 + 40);
    uint8_t *batch = malloc(size);
    pd_batch_write(&columns, batch);
    struct pd_batch_header header;
    CHECK_EQUAL(pd_batch_check(batch, size, &limits, &header, NULL), PD_OK);
    CHECK_EQUAL(header.record_count, 3);
    struct pd_record record;
    CHECK(pd_record_load(batch + 72 + 32, 64, &record));
    CHECK_EQUAL(record.subject, 1);
    CHECK_EQUAL(record.time_ns, 8);
    free(batch);
    columns.parts_length = 23;
    CHECK_EQUAL(pd_batch_size(&columns), 0);
}

/* A block of `count` records with payloads of 0 to 20 bytes; its length. */
static size_t make_block(uint8_t *block, uint32_t count)
{
    const uint32_t head[2] = {1, 16};
    memcpy(block, head, sizeof head);
    memcpy(block + 8, "\1a\0\0\0\0\0", 8);
    size_t at = 16;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t payload = random_below(21);
        struct pd_record record = {.length = (24 + payload + 7) / 8 * 8, .payload_length = payload, .time_ns = i};
        const uint64_t prefix[3] = {i + 1, 99, 1};
        memcpy(block + at, prefix, sizeof prefix);
        memset(block + at + 24, 0, record.length);
        memcpy(block + at + 24, &record, sizeof record);
        at += 24 + record.length;
    }
    return at;
}

static int read_exactly(const uint8_t *block, size_t length, uint32_t count, uint64_t *columns)
{
    uint8_t *exact = malloc(length + 1); /* so that a read behind the end is seen; odd, so alignment is not taken */
    memcpy(exact + 1, block, length);
    int rc = pd_block_columns(exact + 1, length, count, columns);
    free(exact);
    for (uint32_t i = 0; rc == PD_OK && i < count; i++) {
        CHECK(columns[PD_COLUMN_END * count + i] <= length);
        CHECK(columns[PD_COLUMN_PAYLOAD * count + i] <= columns[PD_COLUMN_END * count + i]);
        CHECK(columns[PD_COLUMN_ID * count + i] <= columns[PD_COLUMN_HEADERS * count + i]);
        CHECK(columns[PD_COLUMN_HEADERS * count + i] <= columns[PD_COLUMN_PAYLOAD * count + i]);
    }
    return rc;
}

static void a_block_is_read_within_its_bounds(void)
{
    uint8_t block[1024];
    uint64_t columns[8 * PD_COLUMNS];
    size_t length = make_block(block, 8);
    CHECK_EQUAL(read_exactly(block, length, 8, columns), PD_OK);
    CHECK_EQUAL(columns[PD_COLUMN_SEQUENCE * 8 + 7], 8);
    CHECK_EQUAL(columns[PD_COLUMN_END * 8 + 7] + 7 >= length, 1);
    CHECK_EQUAL(read_exactly(block, length, 7, columns), PD_INVALID);
    for (size_t shorter = 0; shorter < length; shorter++)
        CHECK_EQUAL(read_exactly(block, shorter, 8, columns), PD_INVALID);
    for (int round = 0; round < 20000; round++) {
        size_t at = random_below((uint32_t)length);
        uint8_t before = block[at];
        block[at] = (uint8_t)random_below(256);
        read_exactly(block, length, 8, columns);
        block[at] = before;
    }
}

void test_columns(void)
{
    a_batch_of_columns_is_one();
    a_block_is_read_within_its_bounds();
}
