/* Runs one group of tests: the engine's units are small enough for one program. */
#include "check.h"

#include <signal.h>

void test_crc32c(void);
void test_batch(void);
void test_columns(void);
void test_subject(void);
void test_dedup(void);
void test_rate(void);
void test_bitmap(void);
void test_erasure(void);
void test_retention(void);
void test_limits(void);
void test_log(void);
void test_recovery(void);
void test_full(void);
void test_journal(void);
void test_start(void);
void test_letters(void);
void test_dead(void);
void test_consumer(void);
void test_gate(void);
void test_wire(void);
void test_plain(void);
void test_live(void);
void test_engine(void);
void test_threads(void);
void test_packed(void);
void test_packing(void);

static const struct {
    const char *name;
    void (*run)(void);
} groups[] = {
    {"crc32c", test_crc32c},     {"batch", test_batch},     {"subject", test_subject},     {"dedup", test_dedup},
    {"rate", test_rate},         {"bitmap", test_bitmap},   {"erasure", test_erasure},     {"limits", test_limits},
    {"log", test_log},           {"full", test_full},       {"journal", test_journal},     {"consumer", test_consumer},
    {"recovery", test_recovery}, {"wire", test_wire},       {"engine", test_engine},       {"threads", test_threads},
    {"start", test_start},       {"letters", test_letters}, {"retention", test_retention}, {"plain", test_plain},
    {"live", test_live},         {"dead", test_dead},       {"gate", test_gate},           {"columns", test_columns},
    {"packed", test_packed},     {"packing", test_packing},
};

int main(int count, char **arguments)
{
    signal(SIGXFSZ, SIG_IGN); /* as Python does: a full disk is an error number, not a signal */
    bool known = false;
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        bool wanted = count < 2 || strcmp(arguments[1], groups[i].name) == 0;
        known = known || wanted;
        if (wanted)
            groups[i].run();
    }
    if (!known)
        fprintf(stderr, "no such group\n");
    return !known || check_failures() > 0;
}
