/* SipHash-2-4 with 128 bits, keyed: nobody outside can choose ids that collide. */
#ifndef PD_HASH_H
#define PD_HASH_H

#include "base.h"

struct pd_hash_key {
    uint64_t low;
    uint64_t high;
};

struct pd_hash {
    uint64_t low;
    uint64_t high;
};

/* A key from the system's random source. */
int pd_hash_key_make(struct pd_hash_key *key, pd_error *error);

/* The hash of two strings; ("ab", "c") and ("a", "bc") differ. */
struct pd_hash pd_hash_pair(const struct pd_hash_key *key, struct pd_span first, struct pd_span second);

#endif
