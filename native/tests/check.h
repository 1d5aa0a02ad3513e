/* The tests' tiny harness: CHECK counts and names what does not hold; helpers make directories and batches. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "batch.h"
#include "platformd.h"

#define CHECK(condition) check_that((condition), __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(left, right)                                                                                       \
    check_equal((unsigned long long)(left), (unsigned long long)(right), __FILE__, __LINE__, #left " == " #right)

/* Both return whether it held; the first few failures are printed. */
bool check_that(bool holds, const char *file, int line, const char *text);
bool check_equal(unsigned long long left, unsigned long long right, const char *file, int line, const char *text);
int check_failures(void);

/* A number from 0 to below - 1, from a generator that always begins alike. */
uint32_t random_below(uint32_t below);

/* A new empty directory (static memory, until the next call with the same slot, 0 to 3); all are removed at the
 * end. */
const char *fresh_directory(int slot);
void remove_tree(const char *path);
void copy_file(const char *from, const char *to);
size_t file_size(const char *path);
void flip_byte(const char *path, size_t offset, uint8_t mask);

struct item {
    const char *subject;
    const char *id;
    const void *payload;
    size_t payload_length;
};

/* A batch of the items into out, unstamped; its length. */
size_t make_batch(uint8_t *out, const struct item *items, size_t count);

/* One of `count` records on `subject` with ids "PREFIX-first", …; payloads of payload_length bytes. */
size_t make_numbered(uint8_t *out, const char *subject, const char *prefix, uint32_t first, uint32_t count,
                     size_t payload_length);

/* Recompute body_crc. */
void seal_batch(uint8_t *batch);

#endif
