/* What every file of the engine uses: errors, clocks, names, directories. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int pd_fail(pd_error *error, int status, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return status;
}

int pd_fail_errno(pd_error *error, const char *what, const char *path)
{
    int reason = errno;
    char text[128];
    const char *why = strerror_r(reason, text, sizeof text);
    bool full = reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
    return pd_fail(error, full ? PD_STORAGE_FULL : PD_IO_ERROR, "%s %.300s: %s", what, path, why);
}

bool pd_name_valid(const char *name, size_t length)
{
    if (length == 0 || length > PD_NAME_MAX || name[0] == '.')
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t pd_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t pd_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int pd_make_directory(const char *path, pd_error *error)
{
    if (mkdir(path, 0750) == 0 || errno == EEXIST)
        return PD_OK;
    return pd_fail_errno(error, "cannot make the directory", path);
}

int pd_sync_directory(const char *path, pd_error *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return pd_fail_errno(error, "cannot open the directory", path);
    int rc = fsync(fd) == 0 ? PD_OK : pd_fail_errno(error, "cannot sync the directory", path);
    close(fd);
    return rc;
}

bool pd_reserve(void **items, size_t *capacity, size_t needed, size_t item_size)
{
    if (needed <= *capacity)
        return true;
    size_t grown = *capacity < 16 ? 16 : *capacity;
    while (grown < needed)
        grown *= 2;
    void *moved = realloc(*items, grown * item_size);
    if (moved == NULL)
        return false;
    *items = moved;
    *capacity = grown;
    return true;
}
