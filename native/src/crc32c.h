/* CRC32C (Castagnoli), the checksum of batches and journal records. */
#ifndef PD_CRC32C_H
#define PD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of data, continuing from crc, the checksum of what came before (0 to begin). */
uint32_t pd_crc32c(uint32_t crc, const uint8_t *data, size_t length);

/* The same without the processor's instructions: what the tests hold the fast one against. */
uint32_t pd_crc32c_portable(uint32_t crc, const uint8_t *data, size_t length);

#endif
