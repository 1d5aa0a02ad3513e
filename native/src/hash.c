/* SipHash-2-4-128 (Aumasson and Bernstein; the 128-bit variant of the reference code) of a pair of strings:
 * first, one byte with its length (subjects have at most 255 bytes), second. */
#include "hash.h"

#include <errno.h>
#include <sys/random.h>

struct state {
    uint64_t v0;
    uint64_t v1;
    uint64_t v2;
    uint64_t v3;
    uint64_t tail;
    uint64_t total;
};

static uint64_t rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void rounds(struct state *s, int count)
{
    while (count-- > 0) {
        s->v0 += s->v1;
        s->v1 = rotate(s->v1, 13) ^ s->v0;
        s->v0 = rotate(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = rotate(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = rotate(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = rotate(s->v1, 17) ^ s->v2;
        s->v2 = rotate(s->v2, 32);
    }
}

static void take_word(struct state *s, uint64_t word)
{
    s->v3 ^= word;
    rounds(s, 2);
    s->v0 ^= word;
}

static void take_bytes(struct state *s, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        s->tail |= (uint64_t)data[i] << (8 * (s->total % 8));
        if (++s->total % 8 == 0) {
            take_word(s, s->tail);
            s->tail = 0;
        }
    }
}

int pd_hash_key_make(struct pd_hash_key *key, pd_error *error)
{
    if (getrandom(key, sizeof *key, 0) == (ssize_t)sizeof *key)
        return PD_OK;
    return pd_fail_errno(error, "cannot read", "the system's random source");
}

struct pd_hash pd_hash_pair(const struct pd_hash_key *key, struct pd_span first, struct pd_span second)
{
    struct state s = {
        .v0 = 0x736f6d6570736575u ^ key->low,
        .v1 = 0x646f72616e646f6du ^ key->high ^ 0xee,
        .v2 = 0x6c7967656e657261u ^ key->low,
        .v3 = 0x7465646279746573u ^ key->high,
    };
    uint8_t between = (uint8_t)first.length;
    take_bytes(&s, first.data, first.length);
    take_bytes(&s, &between, 1);
    take_bytes(&s, second.data, second.length);
    take_word(&s, s.tail | s.total << 56);
    struct pd_hash hash;
    s.v2 ^= 0xee;
    rounds(&s, 4);
    hash.low = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    rounds(&s, 4);
    hash.high = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return hash;
}
