/* CRC32C against the vectors of RFC 3720, and the fast way against the plain one. */
#include "check.h"
#include "crc32c.h"

static void known_vectors(void)
{
    uint8_t data[32];
    CHECK_EQUAL(pd_crc32c(0, (const uint8_t *)"123456789", 9), 0xe3069283u);
    memset(data, 0, sizeof data);
    CHECK_EQUAL(pd_crc32c(0, data, sizeof data), 0x8a9136aau);
    memset(data, 0xff, sizeof data);
    CHECK_EQUAL(pd_crc32c(0, data, sizeof data), 0x62a8ab43u);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)i;
    CHECK_EQUAL(pd_crc32c(0, data, sizeof data), 0x46dd794eu);
    CHECK_EQUAL(pd_crc32c_portable(0, data, sizeof data), 0x46dd794eu);
    CHECK_EQUAL(pd_crc32c(0, data, 0), 0);
}

static void fast_equals_portable(void)
{
    static uint8_t data[20000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)random_below(256);
    for (int round = 0; round < 2000; round++) {
        size_t start = random_below(64);
        size_t length = random_below(round % 4 == 0 ? sizeof data - 64 : 200);
        size_t split = length > 0 ? random_below((uint32_t)length) : 0;
        uint32_t crc = pd_crc32c(0, data + start, length);
        CHECK_EQUAL(crc, pd_crc32c_portable(0, data + start, length));
        CHECK_EQUAL(crc, pd_crc32c(pd_crc32c(0, data + start, split), data + start + split, length - split));
    }
}

void test_crc32c(void)
{
    known_vectors();
    fast_equals_portable();
}
