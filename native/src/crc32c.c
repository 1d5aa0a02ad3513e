/* CRC32C (Castagnoli polynomial 0x1EDC6F41, reflected 0x82F63B78, start and end inverted), RFC 3720 B.4.
 *
 * The processor's instruction takes 8 bytes with a latency of three cycles and a throughput of one, so a
 * single chain runs at a third of what the unit can do. Long input is therefore cut into three lanes of
 * LANE bytes that are summed side by side. Joining them needs the checksum of a lane as if LANE zero bytes
 * followed it; that is a linear map over GF(2), kept as four tables of 256 words, made once.
 *
 * Which way is taken is decided once, at the first call.
 */
#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#if defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82F63B78u
#define LANE       1024

static uint32_t byte_table[8][256];
static uint32_t shift_table[4][256];
static int have_instruction;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void make_byte_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
        byte_table[0][byte] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = byte_table[slice - 1][byte];
            byte_table[slice][byte] = (before >> 8) ^ byte_table[0][before & 0xff];
        }
}

static uint32_t append_zeros(uint32_t state, size_t count)
{
    while (count-- > 0)
        state = (state >> 8) ^ byte_table[0][state & 0xff];
    return state;
}

static void make_shift_tables(void)
{
    uint32_t unit[32];
    for (int bit = 0; bit < 32; bit++)
        unit[bit] = append_zeros(1u << bit, LANE);
    for (int place = 0; place < 4; place++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t sum = 0;
            for (int bit = 0; bit < 8; bit++)
                if (byte >> bit & 1)
                    sum ^= unit[place * 8 + bit];
            shift_table[place][byte] = sum;
        }
}

static void prepare(void)
{
    make_byte_tables();
    make_shift_tables();
#if defined(__x86_64__)
    have_instruction = __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__aarch64__)
    have_instruction = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#endif
}

/* On states, which are the inverted checksums. */
static uint32_t portable(uint32_t state, const uint8_t *data, size_t length)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word = load64(data) ^ state;
        state = 0;
        for (int slice = 0; slice < 8; slice++)
            state ^= byte_table[7 - slice][word >> (8 * slice) & 0xff];
    }
    for (; length > 0; data++, length--)
        state = (state >> 8) ^ byte_table[0][(state ^ *data) & 0xff];
    return state;
}

#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
#define WITH_INSTRUCTION    __attribute__((target("sse4.2")))
#define STEP64(state, word) ((uint32_t)_mm_crc32_u64((state), (word)))
#define STEP8(state, byte)  _mm_crc32_u8((state), (byte))
#else
#define WITH_INSTRUCTION    __attribute__((target("+crc")))
#define STEP64(state, word) __crc32cd((state), (word))
#define STEP8(state, byte)  __crc32cb((state), (byte))
#endif

static uint32_t shift_lane(uint32_t state)
{
    return shift_table[0][state & 0xff] ^ shift_table[1][state >> 8 & 0xff] ^ shift_table[2][state >> 16 & 0xff] ^
           shift_table[3][state >> 24];
}

WITH_INSTRUCTION static uint32_t accelerated(uint32_t state, const uint8_t *data, size_t length)
{
    for (; length >= (size_t)3 * LANE; data += 3 * LANE, length -= 3 * LANE) {
        uint32_t second = 0;
        uint32_t third = 0;
        for (size_t at = 0; at < LANE; at += 8) {
            state = STEP64(state, load64(data + at));
            second = STEP64(second, load64(data + LANE + at));
            third = STEP64(third, load64(data + 2 * LANE + at));
        }
        state = shift_lane(shift_lane(state) ^ second) ^ third;
    }
    for (; length >= 8; data += 8, length -= 8)
        state = STEP64(state, load64(data));
    for (; length > 0; data++, length--)
        state = STEP8(state, *data);
    return state;
}
#else
static uint32_t accelerated(uint32_t state, const uint8_t *data, size_t length)
{
    return portable(state, data, length);
}
#endif

uint32_t pd_crc32c(uint32_t crc, const uint8_t *data, size_t length)
{
    pthread_once(&once, prepare);
    return ~(have_instruction ? accelerated(~crc, data, length) : portable(~crc, data, length));
}

uint32_t pd_crc32c_portable(uint32_t crc, const uint8_t *data, size_t length)
{
    pthread_once(&once, prepare);
    return ~portable(~crc, data, length);
}
