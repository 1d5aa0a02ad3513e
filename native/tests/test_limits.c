/* What a stream's limits refuse and remove, through the boundary. */
#include "check.h"

#include "streams.h"

static void records_over_their_size_are_refused(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    rig_start(&rig, fresh_directory(0),
              &(pd_stream_config){
                  .duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000, .max_record_bytes = 10 + 1 + 4});
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 2, 10).status, PD_OK); /* payload, subject "s", id "id-1" */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 2, 11).status, PD_TOO_LARGE);
    CHECK(strstr(rig.error.text, "16 bytes") != NULL && strstr(rig.error.text, "15") != NULL);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 2, 10).appended, 2); /* a refusal remembers nothing */
    rig_info(&rig, &info);
    CHECK_EQUAL(info.last_sequence, 4);
    rig_stop(&rig);
}

static void a_full_stream_refuses_whole_batches(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    pd_stream_config config = {.duplicate_window_ns = UINT64_MAX / 2, .duplicate_limit = 1000, .max_records = 10};
    config.discard_new = 1;
    rig_start(&rig, fresh_directory(0), &config);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 1, 8, 10).appended, 8);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 9, 3, 10).status, PD_STREAM_FULL);
    CHECK(strstr(rig.error.text, "8 records") != NULL && strstr(rig.error.text, "more than 10") != NULL);
    CHECK_EQUAL(rig_append(&rig, "s", "id", 7, 4, 10).appended, 2); /* two of it are there already */
    CHECK_EQUAL(rig_append(&rig, "s", "id", 3, 8, 10).duplicates, 8);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).status, PD_STREAM_FULL);
    rig_info(&rig, &info);
    CHECK(info.messages == 10 && info.last_sequence == 10);
    config.max_records = 0;
    config.max_bytes = info.bytes + 200;
    rig_configure(&rig, &config);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 8, 10).status, PD_STREAM_FULL);
    CHECK_EQUAL(rig_append(&rig, "s", "", 1, 1, 10).appended, 1);
    rig_stop(&rig);
}

static void times_and_rates(void)
{
    struct stream_rig rig;
    pd_stream_info info;
    const char *directory = fresh_directory(0);
    const pd_stream_config config = {0};
    uint64_t before = pd_wall_ns();
    rig_start(&rig, directory, &config);
    rig_info(&rig, &info);
    CHECK(info.first_time_ns == 0 && info.last_time_ns == 0 && info.publish_rate == 0.0);
    rig_append(&rig, "s", "", 1, 3, 10);
    rig_append(&rig, "s", "", 1, 3, 10);
    rig_info(&rig, &info);
    CHECK(info.first_time_ns >= before && info.last_time_ns >= info.first_time_ns);
    CHECK(info.last_time_ns <= pd_wall_ns());
    uint64_t first = info.first_time_ns;
    uint64_t last = info.last_time_ns;
    rig_stop(&rig);
    rig_start(&rig, directory, &config);
    rig_info(&rig, &info);
    CHECK_EQUAL(info.first_time_ns, first);
    CHECK_EQUAL(info.last_time_ns, last);
    rig_stop(&rig);
}

void test_limits(void)
{
    records_over_their_size_are_refused();
    a_full_stream_refuses_whole_batches();
    times_and_rates();
}
