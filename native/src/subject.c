/* Subjects and patterns, by their plain rules. */
#include "subject.h"

struct token {
    const char *text;
    size_t length;
};

/* The token that starts at *at, and *at behind its dot; false at the end. */
static bool next_token(const char **at, const char *end, struct token *token)
{
    if (*at > end)
        return false;
    const char *dot = memchr(*at, '.', (size_t)(end - *at));
    const char *stop = dot != NULL ? dot : end;
    token->text = *at;
    token->length = (size_t)(stop - *at);
    *at = stop + 1;
    return true;
}

static bool is_wildcard(const struct token *token, char wildcard)
{
    return token->length == 1 && token->text[0] == wildcard;
}

static const char *token_error(const struct token *token, bool last, bool pattern)
{
    if (token->length == 0)
        return "has an empty token (two dots together, or one at an end)";
    if (is_wildcard(token, '*'))
        return pattern ? NULL : "has the wildcard '*', which only a pattern may have";
    if (is_wildcard(token, '>')) {
        if (!pattern)
            return "has the wildcard '>', which only a pattern may have";
        return last ? NULL : "has '>' before the end; it stands for the rest, so it comes last";
    }
    for (size_t i = 0; i < token->length; i++) {
        char c = token->text[i];
        if (c < '!' || c > '~')
            return "has a character that is not printable ASCII, or a space";
        if (c == '*' || c == '>')
            return "mixes a wildcard with other characters in a token";
    }
    return NULL;
}

const char *pd_subject_error(const char *subject, size_t length, bool pattern)
{
    if (length == 0)
        return "is empty";
    if (length > PD_SUBJECT_MAX)
        return "is longer than 255 bytes";
    const char *at = subject;
    const char *end = subject + length;
    struct token token;
    while (next_token(&at, end, &token)) {
        const char *wrong = token_error(&token, at > end, pattern);
        if (wrong != NULL)
            return wrong;
    }
    return NULL;
}

bool pd_subject_matches(const char *pattern, size_t pattern_length, const char *subject, size_t subject_length)
{
    const char *pattern_at = pattern;
    const char *pattern_end = pattern + pattern_length;
    const char *subject_at = subject;
    const char *subject_end = subject + subject_length;
    struct token wanted;
    struct token token;
    while (next_token(&pattern_at, pattern_end, &wanted)) {
        if (!next_token(&subject_at, subject_end, &token))
            return false;
        if (is_wildcard(&wanted, '>'))
            return true;
        if (is_wildcard(&wanted, '*'))
            continue;
        if (wanted.length != token.length || memcmp(wanted.text, token.text, token.length) != 0)
            return false;
    }
    return subject_at > subject_end;
}

bool pd_patterns_overlap(const char *first, size_t first_length, const char *second, size_t second_length)
{
    const char *first_at = first;
    const char *first_end = first + first_length;
    const char *second_at = second;
    const char *second_end = second + second_length;
    struct token left;
    struct token right;
    for (;;) {
        bool more_left = next_token(&first_at, first_end, &left);
        bool more_right = next_token(&second_at, second_end, &right);
        if (!more_left || !more_right)
            return more_left == more_right;
        if (is_wildcard(&left, '>') || is_wildcard(&right, '>'))
            return true;
        if (is_wildcard(&left, '*') || is_wildcard(&right, '*'))
            continue;
        if (left.length != right.length || memcmp(left.text, right.text, left.length) != 0)
            return false;
    }
}
