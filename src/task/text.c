#include "task/text.h"

#include "base/mem.h"
#include "task/utf8.h"

#include <string.h>

struct range {
    uint32_t first, last;
};

// Capitals and how they become small. step 2: capitals are every second code point from first on,
// each followed by its small letter; else the small letter lies delta away.
static const struct {
    uint32_t first, last;
    int32_t delta, step;
} capitals[] = {
    {0x0041, 0x005a, 32, 1},    {0x00c0, 0x00d6, 32, 1},   {0x00d8, 0x00de, 32, 1},
    {0x0100, 0x012e, 1, 2},     {0x0130, 0x0130, -199, 1}, {0x0132, 0x0136, 1, 2},
    {0x0139, 0x0147, 1, 2},     {0x014a, 0x0176, 1, 2},    {0x0178, 0x0178, -121, 1},
    {0x0179, 0x017d, 1, 2},     {0x0181, 0x0181, 210, 1},  {0x0182, 0x0184, 1, 2},
    {0x0186, 0x0186, 206, 1},   {0x0187, 0x0187, 1, 1},    {0x0189, 0x018a, 205, 1},
    {0x018b, 0x018b, 1, 1},     {0x018e, 0x018e, 79, 1},   {0x018f, 0x018f, 202, 1},
    {0x0190, 0x0190, 203, 1},   {0x0191, 0x0191, 1, 1},    {0x0193, 0x0193, 205, 1},
    {0x0194, 0x0194, 207, 1},   {0x0196, 0x0196, 211, 1},  {0x0197, 0x0197, 209, 1},
    {0x0198, 0x0198, 1, 1},     {0x019c, 0x019c, 211, 1},  {0x019d, 0x019d, 213, 1},
    {0x019f, 0x019f, 214, 1},   {0x01a0, 0x01a4, 1, 2},    {0x01a6, 0x01a6, 218, 1},
    {0x01a7, 0x01a7, 1, 1},     {0x01a9, 0x01a9, 218, 1},  {0x01ac, 0x01ac, 1, 1},
    {0x01ae, 0x01ae, 218, 1},   {0x01af, 0x01af, 1, 1},    {0x01b1, 0x01b2, 217, 1},
    {0x01b3, 0x01b5, 1, 2},     {0x01b7, 0x01b7, 219, 1},  {0x01b8, 0x01b8, 1, 1},
    {0x01bc, 0x01bc, 1, 1},     {0x01c4, 0x01c4, 2, 1},    {0x01c5, 0x01c5, 1, 1},
    {0x01c7, 0x01c7, 2, 1},     {0x01c8, 0x01c8, 1, 1},    {0x01ca, 0x01ca, 2, 1},
    {0x01cb, 0x01db, 1, 2},     {0x01de, 0x01ee, 1, 2},    {0x01f1, 0x01f1, 2, 1},
    {0x01f2, 0x01f4, 1, 2},     {0x01f6, 0x01f6, -97, 1},  {0x01f7, 0x01f7, -56, 1},
    {0x01f8, 0x021e, 1, 2},     {0x0220, 0x0220, -130, 1}, {0x0222, 0x0232, 1, 2},
    {0x023b, 0x023b, 1, 1},     {0x0241, 0x0241, 1, 1},    {0x0246, 0x024e, 1, 2},
    {0x0370, 0x0372, 1, 2},     {0x0376, 0x0376, 1, 1},    {0x0386, 0x0386, 38, 1},
    {0x0388, 0x038a, 37, 1},    {0x038c, 0x038c, 64, 1},   {0x038e, 0x038f, 63, 1},
    {0x0391, 0x03a1, 32, 1},    {0x03a3, 0x03ab, 32, 1},   {0x03c2, 0x03c2, 1, 1},
    {0x03d8, 0x03ee, 1, 2},     {0x0400, 0x040f, 80, 1},   {0x0410, 0x042f, 32, 1},
    {0x0460, 0x0480, 1, 2},     {0x048a, 0x04be, 1, 2},    {0x04c0, 0x04c0, 15, 1},
    {0x04c1, 0x04cd, 1, 2},     {0x04d0, 0x052e, 1, 2},    {0x1e00, 0x1e94, 1, 2},
    {0x1e9e, 0x1e9e, -7615, 1}, {0x1ea0, 0x1efe, 1, 2},    {0x1f08, 0x1f0f, -8, 1},
    {0x1f18, 0x1f1d, -8, 1},    {0x1f28, 0x1f2f, -8, 1},   {0x1f38, 0x1f3f, -8, 1},
    {0x1f48, 0x1f4d, -8, 1},    {0x1f59, 0x1f5f, -8, 2},   {0x1f68, 0x1f6f, -8, 1},
    {0xff21, 0xff3a, 32, 1},
};

uint32_t text_lower(uint32_t cp)
{
    for (size_t i = 0; i < sizeof capitals / sizeof *capitals && cp >= capitals[i].first; i++)
        if (cp <= capitals[i].last && (cp - capitals[i].first) % (uint32_t)capitals[i].step == 0)
            return (uint32_t)((int32_t)cp + capitals[i].delta);
    return cp;
}

static int within(uint32_t cp, const struct range *r, size_t n)
{
    size_t low = 0, high = n; // the ranges ascend
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp > r[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && cp >= r[low].first;
}

int text_is_break(uint32_t cp)
{
    static const struct range breaks[] = {
        {0x0000, 0x002f},   {0x003a, 0x0040}, {0x005b, 0x0060}, {0x007b, 0x00a9},
        {0x00ab, 0x00b1},   {0x00b4, 0x00b4}, {0x00b6, 0x00b8}, {0x00bb, 0x00bb},
        {0x00bf, 0x00bf},   {0x00d7, 0x00d7}, {0x00f7, 0x00f7}, {0x02c2, 0x02c5},
        {0x02d2, 0x02df},   {0x0375, 0x0375}, {0x037e, 0x037e}, {0x0384, 0x0385},
        {0x0387, 0x0387},   {0x055a, 0x055f}, {0x0589, 0x058a}, {0x05be, 0x05be},
        {0x05c0, 0x05c0},   {0x05c3, 0x05c3}, {0x05c6, 0x05c6}, {0x05f3, 0x05f4},
        {0x0600, 0x060f},   {0x061b, 0x061f}, {0x066a, 0x066d}, {0x06d4, 0x06d4},
        {0x0700, 0x070f},   {0x0964, 0x0965}, {0x0970, 0x0970}, {0x0df4, 0x0df4},
        {0x0e3f, 0x0e3f},   {0x0e4f, 0x0e4f}, {0x0e5a, 0x0e5b}, {0x0f04, 0x0f14},
        {0x104a, 0x104f},   {0x10fb, 0x10fb}, {0x1360, 0x1368}, {0x1680, 0x1680},
        {0x17d4, 0x17db},   {0x1800, 0x180e}, {0x2000, 0x206f}, {0x207a, 0x207e},
        {0x208a, 0x208e},   {0x20a0, 0x20cf}, {0x2100, 0x2101}, {0x2190, 0x245f},
        {0x249c, 0x24b5},   {0x2500, 0x2bff}, {0x2e00, 0x2e7f}, {0x3000, 0x3004},
        {0x3008, 0x3020},   {0x3030, 0x3030}, {0x303d, 0x303f}, {0x30a0, 0x30a0},
        {0x30fb, 0x30fb},   {0xe000, 0xf8ff}, {0xfd3e, 0xfd3f}, {0xfe10, 0xfe1f},
        {0xfe30, 0xfe6f},   {0xfeff, 0xfeff}, {0xff00, 0xff0f}, {0xff1a, 0xff20},
        {0xff3b, 0xff40},   {0xff5b, 0xff65}, {0xffe0, 0xffff}, {0x1f000, 0x1faff},
        {0xe0000, 0x10ffff}};
    return within(cp, breaks, sizeof breaks / sizeof *breaks);
}

// Left out of words without ending them: soft hyphen, tatweel, joiners, marks of direction,
// variation selectors, byte order mark.
static int is_ignored(uint32_t cp)
{
    static const struct range ignored[] = {
        {0x00ad, 0x00ad}, {0x0640, 0x0640}, {0x200c, 0x200f}, {0x202a, 0x202e},
        {0x2060, 0x206f}, {0xfe00, 0xfe0f}, {0xfeff, 0xfeff},
    };
    return within(cp, ignored, sizeof ignored / sizeof *ignored);
}

int text_is_single(uint32_t cp)
{
    static const struct range singles[] = {
        {0x0e00, 0x0e7f}, {0x3005, 0x3007}, {0x3021, 0x3029},   {0x3031, 0x303c},
        {0x3040, 0x30ff}, {0x31f0, 0x31ff}, {0x3400, 0x4dbf},   {0x4e00, 0x9fff},
        {0xf900, 0xfaff}, {0xff66, 0xff9f}, {0x20000, 0x3ffff},
    };
    return within(cp, singles, sizeof singles / sizeof *singles);
}

static void close_word(struct text_words *w, const char *start, const char *end)
{
    if (start == end)
        return;
    uint64_t h = 14695981039346656037u; // FNV-1a
    for (const char *p = start; p < end; p++)
        h = (h ^ (uint8_t)*p) * 1099511628211u;
    w->v[w->n++] = (struct text_word){h, start, (uint32_t)(end - start)};
}

struct text_words text_split(const char *utf8)
{
    size_t n = strlen(utf8);
    struct text_words w = {0};
    // Lower case never takes more bytes than that: a broken byte becomes the three of U+FFFD.
    w.buffer = mem_alloc(MEM_DATA, 3 * n + 1);
    w.v = mem_alloc(MEM_DATA, (n + 1) * sizeof *w.v);
    char *out = w.buffer, *start = out;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_next(utf8 + i, n - i, &cp);
        if (is_ignored(cp))
            continue;
        int single = text_is_single(cp);
        if (single || text_is_break(cp)) {
            close_word(&w, start, out);
            start = out;
        }
        if (text_is_break(cp))
            continue;
        out += utf8_put(out, text_lower(cp));
        if (single) {
            close_word(&w, start, out);
            start = out;
        }
    }
    close_word(&w, start, out);
    return w;
}

void text_free(struct text_words *w)
{
    mem_free(w->v);
    mem_free(w->buffer);
    *w = (struct text_words){0};
}
