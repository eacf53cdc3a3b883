// Lines of standard input as token ids, a line each: for scripts/check_tokenizers.py.
//   encode TOKENIZER FILE [TIMES]    TIMES: encodes all so often and says how fast, instead
#include "base/clock.h"
#include "base/mem.h"
#include "task/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_ids(const struct tokenizer *t, const char *text, size_t n, int32_t *ids)
{
    int32_t count = tokenizer_encode(t, text, n, ids, (int32_t)n + 1);
    for (int32_t i = 0; i < count; i++)
        printf("%s%d", i ? " " : "", ids[i]);
    putchar('\n');
}

static void time_ids(const struct tokenizer *t, const char *text, size_t n, int32_t *ids, int times)
{
    int64_t best = INT64_MAX, count = 0;
    for (int k = 0; k < times; k++) {
        int64_t begun = clock_ns();
        count = 0;
        for (size_t at = 0; at < n;) {
            const char *end = memchr(text + at, '\n', n - at);
            size_t len = end ? (size_t)(end - text) - at : n - at;
            count += tokenizer_encode(t, text + at, len, ids, (int32_t)len + 1);
            at += len + 1;
        }
        int64_t took = clock_ns() - begun;
        best = took < best ? took : best;
    }
    printf("%zu bytes, %lld tokens, %.1f MB/s\n", n, (long long)count,
           1e3 * (double)n / (double)best);
}

int main(int argc, char **argv)
{
    struct err err = {""};
    if (argc < 3) {
        fprintf(stderr, "usage: encode TOKENIZER FILE [TIMES] <TEXT\n");
        return STATUS_USAGE;
    }
    struct tokenizer *t = tokenizer_open(argv[1], argv[2], &err);
    if (!t) {
        fprintf(stderr, "encode: %s\n", err.text);
        return STATUS_USAGE;
    }
    size_t cap = 1 << 16, n = 0, got;
    char *text = malloc(cap);
    while (text && (got = fread(text + n, 1, cap - n, stdin)) > 0)
        if ((n += got) == cap)
            text = realloc(text, cap *= 2);
    int32_t *ids = mem_alloc(MEM_DATA, (n + 2) * sizeof *ids);
    if (argc > 3)
        time_ids(t, text, n, ids, atoi(argv[3]));
    for (size_t at = 0; at < n && argc == 3;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        print_ids(t, text + at, len, ids);
        at += len + 1;
    }
    mem_free(ids);
    free(text);
    tokenizer_close(t);
    return 0;
}
