/* For libFuzzer: nothing that comes from outside may be read beyond its end. The first byte says what the
 * rest is: a batch as it is, a batch whose checksum is made right first, or a request. */
#include "batch.h"
#include "crc32c.h"
#include "wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_batch(const uint8_t *batch, const struct pd_batch_header *header)
{
    struct pd_span *subjects = calloc(header->subject_count, sizeof *subjects);
    uint8_t *out = malloc(header->length);
    uint8_t *without = calloc(1, header->record_count / 8 + 1);
    struct pd_batch_header rebuilt;
    pd_batch_subjects(batch, header, subjects);
    pd_bit_set(without, 0);
    if (header->record_count > 1)
        pd_batch_rebuild(batch, header, without, out, &rebuilt);
    free(subjects);
    free(out);
    free(without);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct pd_batch_limits limits = {1 << 20, 1 << 16};
    struct pd_batch_header header;
    struct pd_request request;
    if (size == 0)
        return 0;
    size_t length = size - 1;
    uint8_t *copy = malloc(length + 1);
    memcpy(copy, data + 1, length);
    if (data[0] % 3 == 2) {
        pd_request_parse(copy, length, &request, NULL);
    } else {
        if (data[0] % 3 == 1 && length >= PD_BATCH_HEADER) {
            uint32_t stated = (uint32_t)length;
            uint32_t crc = pd_crc32c(0, copy + PD_BATCH_BODY, length - PD_BATCH_BODY);
            memcpy(copy, "PDB1", 4);
            memcpy(copy + 4, &stated, 4);
            memcpy(copy + 36, &crc, 4);
        }
        if (pd_batch_check(copy, length, &limits, &header, NULL) == PD_OK)
            use_batch(copy, &header);
    }
    free(copy);
    return 0;
}
