/* Subjects: the rules, the trie against the plain matcher, overlap against enumeration. */
#include "check.h"
#include "router.h"
#include "subject.h"

#include <stdlib.h>

static bool matches(const char *pattern, const char *subject)
{
    return pd_subject_matches(pattern, strlen(pattern), subject, strlen(subject));
}

static bool overlap(const char *first, const char *second)
{
    return pd_patterns_overlap(first, strlen(first), second, strlen(second));
}

static void the_rules(void)
{
    const char *subjects[] = {"a", "a.b", "!.~", "alerts.ztf.g"};
    const char *patterns[] = {"*", ">", "a.*", "a.>", "*.b.*", "*.>"};
    const char *never[] = {"", ".", "a.", ".a", "a..b", "a b", "a*", "*a", "a.>.b", ">>", "a.\t", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof subjects / sizeof subjects[0]; i++)
        CHECK(pd_subject_error(subjects[i], strlen(subjects[i]), false) == NULL);
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        CHECK(pd_subject_error(patterns[i], strlen(patterns[i]), true) == NULL);
        CHECK(pd_subject_error(patterns[i], strlen(patterns[i]), false) != NULL);
    }
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
        CHECK(pd_subject_error(never[i], strlen(never[i]), true) != NULL);
    char longest[257];
    memset(longest, 'x', sizeof longest);
    CHECK(pd_subject_error(longest, 255, false) == NULL);
    CHECK(pd_subject_error(longest, 256, false) != NULL);
    CHECK(matches("a.>", "a.b") && matches("a.>", "a.b.c") && !matches("a.>", "a"));
    CHECK(matches("a.*", "a.b") && !matches("a.*", "a.b.c") && !matches("a.*", "a"));
    CHECK(matches("*.b", "a.b") && !matches("a", "ab") && matches(">", "a"));
}

/* All names of up to `depth` tokens over the alphabet, one string each. */
static size_t enumerate(char (*out)[16], const char *const *alphabet, size_t letters, int depth)
{
    size_t count = 0;
    size_t level = 0;
    for (int tokens = 1; tokens <= depth; tokens++) {
        size_t before = count;
        size_t from = level;
        for (size_t i = 0; i < letters; i++) {
            if (tokens == 1)
                snprintf(out[count++], 16, "%s", alphabet[i]);
            for (size_t j = from; tokens > 1 && j < before; j++)
                snprintf(out[count++], 16, "%.12s.%s", out[j], alphabet[i]);
        }
        level = before;
    }
    return count;
}

static void overlap_is_a_common_subject(void)
{
    static char patterns[512][16];
    static char subjects[512][16];
    size_t pattern_count = enumerate(patterns, (const char *[]){"a", "b", "*", ">"}, 4, 3);
    size_t subject_count = enumerate(subjects, (const char *[]){"a", "b", "c"}, 3, 4);
    for (size_t i = 0; i < pattern_count; i++)
        for (size_t j = 0; j < pattern_count; j++) {
            if (pd_subject_error(patterns[i], strlen(patterns[i]), true) != NULL ||
                pd_subject_error(patterns[j], strlen(patterns[j]), true) != NULL)
                continue;
            bool common = false;
            for (size_t k = 0; k < subject_count && !common; k++)
                common = matches(patterns[i], subjects[k]) && matches(patterns[j], subjects[k]);
            CHECK_EQUAL(overlap(patterns[i], patterns[j]), common);
        }
}

static void random_name(char *out, bool pattern)
{
    size_t tokens = 1 + random_below(5);
    size_t at = 0;
    for (size_t i = 0; i < tokens; i++) {
        uint32_t kind = pattern ? random_below(8) : 0;
        at += (size_t)sprintf(out + at, "%s", i > 0 ? "." : "");
        if (kind == 6 && i + 1 == tokens)
            at += (size_t)sprintf(out + at, ">");
        else if (kind >= 6)
            at += (size_t)sprintf(out + at, "*");
        else
            at += (size_t)sprintf(out + at, "t%u", random_below(6));
    }
}

static void the_trie_finds_what_the_matcher_finds(void)
{
    static char patterns[200][64];
    struct pd_route routes[200];
    struct pd_router *router = pd_router_alloc();
    for (int round = 0; round < 30; round++) {
        size_t count = 0;
        for (int tries = 0; tries < 400 && count < 200; tries++) {
            random_name(patterns[count], true);
            bool clash = false;
            for (size_t i = 0; i < count && !clash; i++)
                clash = overlap(patterns[i], patterns[count]);
            if (clash)
                continue;
            routes[count] = (struct pd_route){patterns[count], patterns[count]};
            count++;
        }
        CHECK(pd_router_build(router, routes, count));
        for (int asked = 0; asked < 3000; asked++) {
            char subject[64];
            random_name(subject, false);
            const char *owner = NULL;
            for (size_t i = 0; i < count; i++)
                if (matches(patterns[i], subject))
                    owner = patterns[i];
            CHECK(pd_router_find(router, subject, strlen(subject)) == owner);
            CHECK(pd_router_find(router, subject, strlen(subject)) == owner); /* now from the cache */
        }
    }
    pd_router_free(router);
}

void test_subject(void)
{
    the_rules();
    overlap_is_a_common_subject();
    the_trie_finds_what_the_matcher_finds();
}
