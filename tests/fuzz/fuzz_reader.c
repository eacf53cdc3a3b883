// Every reader of real data on any bytes: the first byte chooses the format. What was read must
// hold together and fit its own template.
#include "base/mem.h"
#include "task/prompt.h"
#include "task/reader.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct record *r)
{
    const char *context = record_field(r, "context");
    if (!r->id || !r->answer || r->n_fields < 1)
        abort();
    if (r->answer_at >= 0 &&
        (!context || strncmp(context + r->answer_at, r->answer, strlen(r->answer)) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int n = 0;
    while (reader_table[n])
        n++;
    if (size == 0)
        return 0;
    const struct reader *reader = reader_table[data[0] % n];
    struct corpus c;
    struct err err = {0};
    corpus_open(&c);
    if (reader->read(&c, "fuzz.xx.json", data + 1, size - 1, &err) && !err.text[0])
        abort(); // refused without a word
    for (int32_t i = 0; i < c.n; i++) {
        check(&c.records[i]);
        if (prompt_check(reader->prompt, &c.records[i], &err) == 0)
            mem_free(prompt_fill(reader->prompt, &c.records[i], NULL));
    }
    corpus_close(&c);
    return 0;
}
