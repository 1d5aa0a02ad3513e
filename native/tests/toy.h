/* A compressor with zstd's interface, which is not here: the engine takes it as a table of functions, so its tests need
 * none. It knows runs of one byte and nothing else, and trusts nothing that it decompresses. */
#ifndef TOY_H
#define TOY_H

/* For pd_options.zstd. */
void *const *toy_functions(void);

#endif
