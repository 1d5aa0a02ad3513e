/* For libFuzzer: nothing that comes from outside may be read beyond its end. The first byte says what the
 * rest is: a batch as it is, a batch whose checksum is made right first, a request, or messages of plain programs with
 * a zero byte between. */
#include "batch.h"
#include "crc32c.h"
#include "plain.h"
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

/* What is taken from outside is a batch that would be taken from outside. */
static void use_messages(const uint8_t *data, size_t length, const struct pd_batch_limits *limits)
{
    static struct pd_plain_batch batch;
    struct pd_batch_header header;
    const uint8_t *end = data + length;
    pd_plain_begin(&batch);
    while (data < end) {
        const uint8_t *stop = memchr(data, 0, (size_t)(end - data));
        size_t message = (size_t)((stop != NULL ? stop : end) - data);
        struct pd_plain plain;
        if (pd_plain_parse(data, message, 100, &plain, NULL) == PD_OK)
            pd_plain_add(&batch, &plain, 1024);
        data += message + 1;
    }
    if (batch.record_count == 0)
        return;
    uint8_t *out = malloc(pd_plain_length(&batch));
    pd_plain_write(&batch, 1, out);
    if (pd_batch_check(out, pd_plain_length(&batch), limits, &header, NULL) != PD_OK)
        abort();
    free(out);
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
    if (data[0] % 4 == 2) {
        pd_request_parse(copy, length, &request, NULL);
    } else if (data[0] % 4 == 3) {
        use_messages(copy, length, &limits);
    } else {
        if (data[0] % 4 == 1 && length >= PD_BATCH_HEADER) {
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
