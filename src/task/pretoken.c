#include "task/pretoken.h"

#include "base/check.h"
#include "task/unicode_ranges.h"
#include "task/utf8.h"

#include <stdbool.h>
#include <string.h>

enum class { OTHER, LETTER, NUMBER, SPACE };

static bool within(uint32_t cp, const uint32_t (*ranges)[2], size_t n)
{
    size_t low = 0;
    while (low < n) {
        size_t mid = (low + n) / 2;
        if (cp > ranges[mid][1])
            low = mid + 1;
        else if (cp < ranges[mid][0])
            n = mid;
        else
            return true;
    }
    return false;
}

static enum class class_of(uint32_t cp) {
    if (cp < 128){bool letter = (cp | 32) - 'a' < 26, number = cp - '0' < 10;
                  return letter                    ? LETTER
                         : number                  ? NUMBER
                         : cp == ' ' || cp - 9 < 5 ? SPACE
                                                   : OTHER;}
if (within(cp, letter_ranges, ARRAY_LEN(letter_ranges))) return LETTER;
if (within(cp, number_ranges, ARRAY_LEN(number_ranges)))
    return NUMBER;
return within(cp, space_ranges, ARRAY_LEN(space_ranges)) ? SPACE : OTHER;
}

// The code point at `at`: its class, and where the next one begins.
static enum class look(const char *s, size_t n, size_t at, size_t *next) {
    uint32_t cp; *next = at + utf8_next(s + at, n - at, &cp); return class_of(cp);
}

// The end of code points of one class from `at` on, `most` of them at most.
static size_t run_of(const char *s, size_t n, size_t at, enum class want, size_t most)
{
    size_t next;
    for (; at < n && most > 0 && look(s, n, at, &next) == want; most--)
        at = next;
    return at;
}

// The length of 's, 't, 're, 've, 'm, 'll or 'd at s, 0 = none of them. fold: in any case, where
// U+017F is an s, too.
static size_t contraction(const char *s, size_t n, bool fold)
{
    if (n < 2 || s[0] != '\'')
        return 0;
    if (fold && n >= 3 && (uint8_t)s[1] == 0xc5 && (uint8_t)s[2] == 0xbf)
        return 3;
    char a = fold && s[1] >= 'A' && s[1] <= 'Z' ? (char)(s[1] | 32) : s[1], b = 0;
    if (n >= 3)
        b = fold && s[2] >= 'A' && s[2] <= 'Z' ? (char)(s[2] | 32) : s[2];
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return a == 's' || a == 't' || a == 'm' || a == 'd' ? 2 : 0;
}

// \s+(?!\S)|\s+ : white space without its last code point, which goes to the word behind it, unless
// there is only one or the text ends. apart: the text ends before a number.
static size_t spaces(const char *s, size_t n, size_t at, bool apart)
{
    size_t end = run_of(s, n, at, SPACE, SIZE_MAX), last = at, next;
    if (end == n || (apart && look(s, n, end, &next) == NUMBER))
        return end - at;
    for (size_t i = at; i < end; i = next) {
        last = i;
        look(s, n, i, &next);
    }
    return last > at ? last - at : end - at;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t classic_next(const char *s, size_t n, size_t at, bool apart)
{
    size_t len = contraction(s + at, n - at, false), next, from = at;
    if (len)
        return len;
    if (s[at] == ' ' && at + 1 < n) {
        enum class then = look(s, n, at + 1, &next);
        from += then != SPACE && !(apart && then == NUMBER);
    }
    enum class kind = look(s, n, from, &next);
    return kind == SPACE ? spaces(s, n, at, apart) : run_of(s, n, from, kind, SIZE_MAX) - at;
}

static size_t gpt2_next(const char *s, size_t n, size_t at)
{
    return classic_next(s, n, at, false);
}

// Each number is a piece by itself; what lies between goes the way of gpt2.
static size_t smollm_next(const char *s, size_t n, size_t at)
{
    size_t next;
    return look(s, n, at, &next) == NUMBER ? next - at : classic_next(s, n, at, true);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
// \s*[\r\n]+|\s+(?!\S)|\s+
static size_t modern_next(const char *s, size_t n, size_t at, size_t digits)
{
    size_t len = contraction(s + at, n - at, true), next, then;
    enum class kind = look(s, n, at, &next);
    if (len)
        return len;
    if (kind == LETTER)
        return run_of(s, n, at, LETTER, SIZE_MAX) - at;
    if (kind == NUMBER)
        return run_of(s, n, at, NUMBER, digits) - at;
    if (s[at] != '\r' && s[at] != '\n' && next < n && look(s, n, next, &then) == LETTER)
        return run_of(s, n, next, LETTER, SIZE_MAX) - at;
    size_t from = at + (s[at] == ' '), end = run_of(s, n, from, OTHER, SIZE_MAX);
    if (end > from) {
        while (end < n && (s[end] == '\r' || s[end] == '\n'))
            end++;
        return end - at;
    }
    end = run_of(s, n, at, SPACE, SIZE_MAX);
    for (size_t i = end; i > at; i--)
        if (s[i - 1] == '\r' || s[i - 1] == '\n')
            return i - at;
    return spaces(s, n, at, false);
}

static size_t llama3_next(const char *s, size_t n, size_t at)
{
    return modern_next(s, n, at, 3);
}

static size_t qwen2_next(const char *s, size_t n, size_t at)
{
    return modern_next(s, n, at, 1);
}

#define MODERN(digits)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pretoken gpt2 = {"gpt-2", NULL, gpt2_next};
static const struct pretoken smollm = {"smollm", NULL, smollm_next};
static const struct pretoken llama3 = {"llama-bpe", MODERN("\\p{N}{1,3}"), llama3_next};
static const struct pretoken qwen2 = {"qwen2", MODERN("\\p{N}"), qwen2_next};

const struct pretoken *const pretoken_table[] = {&gpt2, &smollm, &llama3, &qwen2, NULL};

const struct pretoken *pretoken_find(const char *name, size_t len)
{
    for (int i = 0; pretoken_table[i]; i++)
        if (strlen(pretoken_table[i]->name) == len && !memcmp(pretoken_table[i]->name, name, len))
            return pretoken_table[i];
    return NULL;
}

const struct pretoken *pretoken_by_regex(const char *regex)
{
    for (int i = 0; pretoken_table[i]; i++)
        if (pretoken_table[i]->regex && !strcmp(pretoken_table[i]->regex, regex))
            return pretoken_table[i];
    return NULL;
}
