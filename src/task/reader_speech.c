// Plain text of a play: a line "NAME:", the speech, an empty line. What is learned is to answer the
// speech before in a speaker's words; natural clients are speakers (LEAF, Caldas et al. 2018).
#include "task/reader.h"

#include "task/utf8.h"

#include <string.h>

struct line {
    const char *text; // without white space at its end
    size_t n;
    int32_t number;
};

// The next line at *at; false at the end of the file.
static bool next_line(const char *text, size_t n, size_t *at, struct line *l)
{
    if (*at >= n)
        return false;
    const char *newline = memchr(text + *at, '\n', n - *at);
    size_t end = newline ? (size_t)(newline - text) : n;
    *l = (struct line){text + *at, end - *at, l->number + 1};
    while (l->n > 0 && strchr(" \t\r", l->text[l->n - 1]) && l->text[l->n - 1])
        l->n--;
    *at = end + 1;
    return true;
}

static int check_line(const struct line *l, const char *path, struct err *err)
{
    for (size_t i = 0; i < l->n;) {
        uint32_t cp;
        size_t step = utf8_next(l->text + i, l->n - i, &cp);
        if (cp == 0 || (cp == 0xfffd && step == 1))
            return err_set(err, "%s:%d: byte %zu is not text in UTF-8", path, l->number, i + 1);
        i += step;
    }
    return 0;
}

static void add_speech(struct corpus *c, const char *speaker, const char *before,
                       const char *speech, size_t n)
{
    if (n == 0) {
        c->left_out++;
        return;
    }
    const char *said = dataset_text(c->texts, speech, n);
    struct field fields[] = {{"before", before}, {"speaker", speaker}};
    struct record r = {.answer_at = -1, .id = said, .answer = said};
    corpus_add(c, fields, ARRAY_LEN(fields), r);
}

static int speech_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                       struct err *err)
{
    const char *text = (const char *)bytes, *before = "", *block = NULL, *speech = NULL;
    const char *speaker = NULL, *end = text;
    struct line l = {0};
    size_t at = 0;
    for (bool more = true; more;) {
        more = next_line(text, n, &at, &l);
        if (more && check_line(&l, path, err))
            return -1;
        if (more && l.n > 0 && speaker) {
            speech = speech ? speech : l.text;
            end = l.text + l.n;
        } else if (more && l.n > 0) {
            if (l.n < 2 || l.text[l.n - 1] != ':')
                return err_set(err,
                               "%s:%d: \"%.*s\" begins a speech and names no speaker: write "
                               "NAME: in a line of its own",
                               path, l.number, (int)(l.n < 40 ? l.n : 40), l.text);
            speaker = dataset_text(c->texts, l.text, l.n - 1);
            block = l.text;
            speech = NULL;
            end = l.text + l.n;
        } else if (speaker) {
            add_speech(c, speaker, before, speech, speech ? (size_t)(end - speech) : 0);
            before = dataset_text(c->texts, block, (size_t)(end - block));
            speaker = NULL;
        }
    }
    return 0;
}

const struct reader reader_speech = {
    .name = "speech",
    .help = "plain text of a play: NAME: in a line, the speech, an empty line (UTF-8)",
    .prompt = "[{before}\n\n]{speaker}:",
    .groups = (const char *const[]){"speaker", NULL},
    .plain = true,
    .read = speech_read,
};
