#include "task/nfc.h"

#include "base/check.h"
#include "base/mem.h"
#include "task/nfc_tables.h"
#include "task/utf8.h"

#include <stdint.h>
#include <string.h>

enum {
    // Hangul's syllables are made of leading, vowel and trailing letters by arithmetic.
    SYLLABLES = 0xac00,
    LEADS = 0x1100,
    VOWELS = 0x1161,
    TRAILS = 0x11a7, // the first trailing letter is none
    N_LEADS = 19,
    N_VOWELS = 21,
    N_TRAILS = 28,
    PLAIN = 0x300,     // nothing below it joins what is before it
    PARTS_MAX = 4,     // of one code point, at most
    BROKEN = 0x110000, // + a byte that is no UTF-8
};

// The row whose range holds the code point, or NULL. Rows: first, last, then whatever.
static const uint32_t *range_of(const uint32_t *rows, size_t n, size_t width, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const uint32_t *row = rows + mid * width;
        if (cp < row[0])
            hi = mid;
        else if (cp > row[1])
            lo = mid + 1;
        else
            return row;
    }
    return NULL;
}

bool nfc_holds(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_next(text + i, n - i, &cp);
        if (cp >= PLAIN && range_of(suspect_ranges[0], ARRAY_LEN(suspect_ranges), 2, cp))
            return false;
    }
    return true;
}

static uint32_t class_of(uint32_t cp)
{
    const uint32_t *row = range_of(class_ranges[0], ARRAY_LEN(class_ranges), 3, cp);
    return row ? row[2] : 0;
}

static const uint32_t *split_of(uint32_t cp)
{
    size_t lo = 0, hi = ARRAY_LEN(split_rows);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (split_rows[mid][0] == cp)
            return split_rows[mid];
        if (split_rows[mid][0] < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

// What two code points make, or 0.
static uint32_t joined(uint32_t a, uint32_t b)
{
    if (a - LEADS < N_LEADS && b - VOWELS < N_VOWELS)
        return SYLLABLES + ((a - LEADS) * N_VOWELS + b - VOWELS) * N_TRAILS;
    if (a - SYLLABLES < N_LEADS * N_VOWELS * N_TRAILS && (a - SYLLABLES) % N_TRAILS == 0 &&
        b - TRAILS - 1 < N_TRAILS - 1)
        return a + b - TRAILS;
    size_t lo = 0, hi = ARRAY_LEN(join_rows);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const uint32_t *row = join_rows[mid];
        if (row[0] == a && row[1] == b)
            return row[2];
        if (row[0] < a || (row[0] == a && row[1] < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    return 0;
}

// The parts of a code point, the first of a pair taken apart further. Returns how many.
static int take_apart(uint32_t cp, uint32_t *out)
{
    uint32_t back[PARTS_MAX];
    int n = 0, k = 0;
    if (cp - SYLLABLES < N_LEADS * N_VOWELS * N_TRAILS) {
        uint32_t at = cp - SYLLABLES, trail = at % N_TRAILS;
        out[n++] = LEADS + at / (N_VOWELS * N_TRAILS);
        out[n++] = VOWELS + at / N_TRAILS % N_VOWELS;
        if (trail)
            out[n++] = TRAILS + trail;
        return n;
    }
    for (const uint32_t *row; (row = split_of(cp)) != NULL; cp = row[1])
        if (row[2])
            back[k++] = row[2];
    out[n++] = cp;
    while (k > 0)
        out[n++] = back[--k];
    return n;
}

// Marks on one letter stand by their class; those of one class keep their order.
static void sort_marks(uint32_t *cp, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint32_t moved = cp[i], class = class_of(moved);
        size_t j = i;
        if (class == 0)
            continue;
        for (; j > 0 && class_of(cp[j - 1]) > class; j--)
            cp[j] = cp[j - 1];
        cp[j] = moved;
    }
}

// Joins what may join, in place; a mark behind one of its class or higher is out of the letter's
// reach. Returns how many code points are left.
static size_t join_all(uint32_t *cp, size_t n)
{
    size_t out = 0, letter = SIZE_MAX;
    uint32_t last = 0; // class of what stands between the letter and here
    for (size_t i = 0; i < n; i++) {
        uint32_t class = class_of(cp[i]);
        bool adjacent = letter != SIZE_MAX && out == letter + 1;
        uint32_t made =
            letter != SIZE_MAX && (adjacent || last < class) ? joined(cp[letter], cp[i]) : 0;
        if (made) {
            cp[letter] = made;
            continue;
        }
        if (class == 0)
            letter = out;
        last = class;
        cp[out++] = cp[i];
    }
    return out;
}

char *nfc_of(const char *text, size_t *n)
{
    uint32_t *cp = mem_alloc(MEM_DATA, (*n * PARTS_MAX + 1) * sizeof *cp);
    size_t parts = 0, bytes = 0;
    for (size_t i = 0; i < *n;) {
        uint32_t c;
        size_t step = utf8_next(text + i, *n - i, &c);
        if (c == 0xfffd && step == 1)
            c = BROKEN + (uint8_t)text[i];
        parts += (size_t)take_apart(c, cp + parts);
        i += step;
    }
    sort_marks(cp, parts);
    parts = join_all(cp, parts);
    char *out = mem_alloc(MEM_DATA, 4 * parts + 1);
    for (size_t i = 0; i < parts; i++) {
        if (cp[i] >= BROKEN)
            out[bytes++] = (char)(cp[i] - BROKEN);
        else
            bytes += utf8_put(out + bytes, cp[i]);
    }
    mem_free(cp);
    *n = bytes;
    return out;
}
