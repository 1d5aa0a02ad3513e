/* The boundary of the engine as C sees it: the same text that cffi reads. */
#ifndef PLATFORMD_H
#define PLATFORMD_H

#include <stddef.h>
#include <stdint.h>

#include "../platformd.cdef"

#endif
