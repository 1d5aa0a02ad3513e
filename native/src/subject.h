/* Subjects and patterns: one or more tokens of printable ASCII with dots between, at most 255 bytes. In a
 * pattern `*` stands for one token and a last `>` for one or more. The rules are those of
 * platformd/model/subjects.py. */
#ifndef PD_SUBJECT_H
#define PD_SUBJECT_H

#include "base.h"

#define PD_SUBJECT_MAX 255

/* What is wrong with a subject (a pattern if pattern is true), or NULL. */
const char *pd_subject_error(const char *subject, size_t length, bool pattern);

/* Whether a valid pattern covers a valid subject. */
bool pd_subject_matches(const char *pattern, size_t pattern_length, const char *subject, size_t subject_length);

/* Whether some subject is covered by both valid patterns. */
bool pd_patterns_overlap(const char *first, size_t first_length, const char *second, size_t second_length);

#endif
