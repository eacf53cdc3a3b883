// UTF-8, one code point at a time.
#ifndef FSTQ_TASK_UTF8_H
#define FSTQ_TASK_UTF8_H

#include <stddef.h>
#include <stdint.h>

// Decodes the code point at s (n > 0 bytes left) and returns its length, 1 to 4. A broken sequence
// (overlong, surrogate, beyond U+10FFFF, cut short) is U+FFFD and one byte long.
static inline size_t utf8_next(const char *s, size_t n, uint32_t *cp)
{
    const uint8_t *b = (const uint8_t *)s;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = b[0] < 0x80 ? 1 : b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (len == 1) {
        *cp = b[0];
        return 1;
    }
    uint32_t v = b[0] & (0x7fu >> len);
    *cp = 0xfffd;
    if (b[0] < 0xc0 || b[0] >= 0xf8 || len > n)
        return 1;
    for (size_t i = 1; i < len; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return 1;
        v = (v << 6) | (b[i] & 0x3fu);
    }
    if (v < least[len] || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
        return 1;
    *cp = v;
    return len;
}

// Writes cp to out (4 bytes of room) and returns its length.
static inline size_t utf8_put(char *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len; i-- > 1; cp >>= 6)
        out[i] = (char)(0x80u | (cp & 0x3fu));
    out[0] = (char)((0xf00u >> len) | cp);
    return len;
}

#endif
