/* A compressor with zstd's interface: byte C < 128 and C + 1 bytes as they are, or C >= 128 and a byte to repeat
 * C - 125 times. */
#include "toy.h"

#include "zstd_api.h"

#include <stdlib.h>
#include <string.h>

#define BAD ((size_t)-1)

static ZSTD_CCtx *toy_create_c(void)
{
    return malloc(1);
}

static size_t toy_free_c(ZSTD_CCtx *context)
{
    free(context);
    return 0;
}

static ZSTD_DCtx *toy_create_d(void)
{
    return malloc(1);
}

static size_t toy_free_d(ZSTD_DCtx *context)
{
    free(context);
    return 0;
}

static size_t toy_bound(size_t size)
{
    return size + size / 128 + 2;
}

static size_t run_length(const uint8_t *at, size_t left)
{
    size_t length = 1;
    while (length < left && length < 130 && at[length] == at[0])
        length++;
    return length;
}

static size_t toy_compress(ZSTD_CCtx *context, void *to, size_t room, const void *from, size_t size, int level)
{
    const uint8_t *in = from;
    uint8_t *out = to;
    size_t used = 0;
    (void)context;
    (void)level;
    for (size_t at = 0; at < size;) {
        size_t run = run_length(in + at, size - at);
        size_t literals = 0;
        while (run < 3 && literals < 128 && at + literals < size &&
               run_length(in + at + literals, size - at - literals) < 3)
            literals++;
        if (used + literals + 2 > room)
            return BAD;
        out[used++] = (uint8_t)(run >= 3 ? run + 125 : literals - 1);
        memcpy(out + used, in + at, run >= 3 ? 1 : literals);
        used += run >= 3 ? 1 : literals;
        at += run >= 3 ? run : literals;
    }
    return used;
}

static size_t toy_decompress(ZSTD_DCtx *context, void *to, size_t room, const void *from, size_t size)
{
    const uint8_t *in = from;
    uint8_t *out = to;
    size_t used = 0;
    (void)context;
    for (size_t at = 0; at < size;) {
        uint8_t control = in[at++];
        size_t length = control < 128 ? control + 1u : control - 125u;
        size_t needed = control < 128 ? length : 1;
        if (needed > size - at || length > room - used)
            return BAD;
        if (control < 128)
            memcpy(out + used, in + at, length);
        else
            memset(out + used, in[at], length);
        at += needed;
        used += length;
    }
    return used;
}

static unsigned toy_is_error(size_t code)
{
    return code == BAD;
}

static const char *toy_error_name(size_t code)
{
    (void)code;
    return "toy";
}

void *const *toy_functions(void)
{
    static void *functions[10];
    struct pd_zstd toy = {
        .ZSTD_createCCtx = toy_create_c,
        .ZSTD_freeCCtx = toy_free_c,
        .ZSTD_compressCCtx = toy_compress,
        .ZSTD_compressBound = toy_bound,
        .ZSTD_createDCtx = toy_create_d,
        .ZSTD_freeDCtx = toy_free_d,
        .ZSTD_decompressDCtx = toy_decompress,
        .ZSTD_isError = toy_is_error,
        .ZSTD_getErrorName = toy_error_name,
    };
    memcpy(functions, &toy, sizeof toy);
    return functions;
}
