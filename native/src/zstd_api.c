/* zstd's functions, as addresses that somebody else found. */
#include "zstd_api.h"

#include "platformd.h"

#include <assert.h>
#include <string.h>

#define NAME(name, result, arguments) #name,
static const char *const names[] = {PD_ZSTD_FUNCTIONS(NAME) NULL};

#define COUNT (sizeof names / sizeof names[0] - 1)
static_assert(sizeof(struct pd_zstd) == COUNT * sizeof(void *), "a table of nothing but addresses");

const char *const *pd_zstd_names(void)
{
    return names;
}

int pd_zstd_fill(struct pd_zstd *zstd, void *const *functions)
{
    for (size_t i = 0; i < COUNT; i++)
        if (functions[i] == NULL)
            return -1;
    memcpy(zstd, functions, sizeof *zstd);
    return 0;
}
