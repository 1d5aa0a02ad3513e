/* zstd's functions, as addresses that somebody else found: the library lies inside of the wheel of the Python package
 * zstandard and is not linked. The declarations are those of zstd's stable interface (1.0 and later). */
#ifndef PD_ZSTD_API_H
#define PD_ZSTD_API_H

#include <stddef.h>
#include <stdint.h>

typedef struct ZSTD_CCtx_s ZSTD_CCtx;
typedef struct ZSTD_DCtx_s ZSTD_DCtx;

/* F(name, result, arguments), in the order of pd_zstd_names. */
#define PD_ZSTD_FUNCTIONS(F)                                                                                           \
    F(ZSTD_createCCtx, ZSTD_CCtx *, (void))                                                                            \
    F(ZSTD_freeCCtx, size_t, (ZSTD_CCtx *))                                                                            \
    F(ZSTD_compressCCtx, size_t, (ZSTD_CCtx *, void *, size_t, const void *, size_t, int))                             \
    F(ZSTD_compressBound, size_t, (size_t))                                                                            \
    F(ZSTD_createDCtx, ZSTD_DCtx *, (void))                                                                            \
    F(ZSTD_freeDCtx, size_t, (ZSTD_DCtx *))                                                                            \
    F(ZSTD_decompressDCtx, size_t, (ZSTD_DCtx *, void *, size_t, const void *, size_t))                                \
    F(ZSTD_isError, unsigned, (size_t))                                                                                \
    F(ZSTD_getErrorName, const char *, (size_t))

#define PD_ZSTD_MEMBER(name, result, arguments) result(*name) arguments;
struct pd_zstd {
    PD_ZSTD_FUNCTIONS(PD_ZSTD_MEMBER)
};
#undef PD_ZSTD_MEMBER

/* Take the addresses, in the order of pd_zstd_names; -1 when one is NULL. */
int pd_zstd_fill(struct pd_zstd *zstd, void *const *functions);

#endif
