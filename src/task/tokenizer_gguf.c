// A vocabulary from the keys of a GGUF file.
#include "base/mem.h"
#include "task/bpe.h"

#include <string.h>

static int32_t special_id(const struct gguf *g, const char *name, int32_t dflt)
{
    const struct gguf_key *k = gguf_find(g, name);
    int64_t v = dflt;
    return k && gguf_int(k, &v) == 0 && v >= 0 && v <= INT32_MAX ? (int32_t)v : dflt;
}

static const struct gguf_key *find_list(const struct gguf *g, const char *name, enum gguf_value of,
                                        struct err *err)
{
    const struct gguf_key *k = gguf_find(g, name);
    if (!k || k->type != GGUF_ARRAY || k->of != of) {
        err_set(err, "%s is missing, or not the list it should be", name);
        return NULL;
    }
    if (k->count > BPE_MAX_VOCAB) {
        err_set(err, "%s has %llu entries; at most %d are known", name,
                (unsigned long long)k->count, BPE_MAX_VOCAB);
        return NULL;
    }
    return k;
}

static int gguf_tokens(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    const struct gguf_key *tokens = find_list(g, "tokenizer.ggml.tokens", GGUF_STRING, err);
    const struct gguf_key *types =
        tokens ? find_list(g, "tokenizer.ggml.token_type", GGUF_I32, err) : NULL;
    if (!types)
        return -1;
    if (types->count != tokens->count)
        return err_set(err, "tokenizer.ggml.token_type has %llu entries for %llu tokens",
                       (unsigned long long)types->count, (unsigned long long)tokens->count);
    v->n = (int32_t)tokens->count;
    v->token = mem_alloc(MEM_DATA, (size_t)v->n * sizeof *v->token);
    v->kind = mem_alloc(MEM_DATA, (size_t)v->n);
    size_t at = 0;
    for (int32_t i = 0; i < v->n; i++) {
        uint32_t type; // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
        memcpy(&type, types->data + 4 * (size_t)i, 4);
        v->token[i] = gguf_next(tokens, &at);
        v->kind[i] = type == 4   ? BPE_ADDED
                     : type == 1 ? BPE_NORMAL
                     : type == 6 ? (v->pretoken ? BPE_NORMAL : BPE_BYTE)
                                 : BPE_CONTROL;
    }
    return 0;
}

static int gguf_merges(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    const struct gguf_key *k = find_list(g, "tokenizer.ggml.merges", GGUF_STRING, err);
    if (!k)
        return -1;
    v->merge = mem_alloc(MEM_DATA, (size_t)k->count * sizeof *v->merge);
    size_t at = 0;
    for (; v->n_merges < (int64_t)k->count; v->n_merges++) {
        struct gguf_text t = gguf_next(k, &at);
        const char *space = t.n > 1 ? memchr(t.p + 1, ' ', t.n - 1) : NULL;
        if (!space)
            return err_set(err, "merge %lld has no space between two tokens",
                           (long long)v->n_merges);
        size_t left = (size_t)(space - t.p);
        v->merge[v->n_merges][0] = (struct gguf_text){t.p, left};
        v->merge[v->n_merges][1] = (struct gguf_text){space + 1, t.n - left - 1};
    }
    return 0;
}

static int gguf_scores(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    const struct gguf_key *k = find_list(g, "tokenizer.ggml.scores", GGUF_F32, err);
    if (!k)
        return -1;
    if (k->count != (uint64_t)v->n)
        return err_set(err, "tokenizer.ggml.scores has %llu entries for %d tokens",
                       (unsigned long long)k->count, v->n);
    v->score = mem_alloc(MEM_DATA, (size_t)v->n * sizeof *v->score);
    memcpy(v->score, k->data, (size_t)v->n * sizeof *v->score);
    return 0;
}

static bool flag(const struct gguf *g, const char *name, bool dflt)
{
    const struct gguf_key *k = gguf_find(g, name);
    int64_t v = dflt;
    return k && gguf_int(k, &v) == 0 ? v != 0 : dflt;
}

// The text of a key, "none" where there is no such text.
static struct gguf_text text_key(const struct gguf *g, const char *name, const char *dflt)
{
    const struct gguf_key *k = gguf_find(g, name);
    size_t at = 0;
    return k && k->type == GGUF_STRING ? gguf_next(k, &at) : (struct gguf_text){dflt, strlen(dflt)};
}

static int read_byte_level(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    struct gguf_text name = text_key(g, "tokenizer.ggml.pre", "gpt-2");
    v->pretoken = pretoken_find(name.p, name.n);
    if (!v->pretoken)
        return err_set(err,
                       "tokenizer.ggml.pre is %.*s: gpt-2, smollm, llama-bpe and qwen2 are known",
                       (int)(name.n < 60 ? name.n : 60), name.p);
    v->whole = strcmp(v->pretoken->name, "llama-bpe") == 0;
    return gguf_tokens(g, v, err) || gguf_merges(g, v, err) ? -1 : 0;
}

static int read_sentencepiece(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    const struct gguf_key *map = gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    if ((map && map->count > 0) || flag(g, "tokenizer.ggml.remove_extra_whitespaces", false))
        return err_set(err, "tokenizer.ggml.%s is set: not supported",
                       map && map->count > 0 ? "precompiled_charsmap" : "remove_extra_whitespaces");
    v->space = flag(g, "tokenizer.ggml.add_space_prefix", true) ? BPE_SPACE_TEXT : BPE_SPACE_NONE;
    return gguf_tokens(g, v, err) || gguf_scores(g, v, err) ? -1 : 0;
}

static int read_gguf(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    struct gguf_text model = text_key(g, "tokenizer.ggml.model", "none");
    bool pieces = gguf_is(model, "llama");
    if (!pieces && !gguf_is(model, "gpt2"))
        return err_set(err,
                       "tokenizer.ggml.model is %.*s: gpt2 (byte-level BPE) and llama "
                       "(SentencePiece's) are read here",
                       (int)(model.n < 60 ? model.n : 60), model.p);
    if (flag(g, "tokenizer.ggml.add_bos_token", pieces))
        v->bos = special_id(g, "tokenizer.ggml.bos_token_id", pieces ? 1 : -1);
    v->eos = special_id(g, "tokenizer.ggml.eos_token_id", pieces ? 2 : -1);
    v->pad = special_id(g, "tokenizer.ggml.padding_token_id", -1);
    return pieces ? read_sentencepiece(g, v, err) : read_byte_level(g, v, err);
}

static int gguf_open(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err)
{
    struct gguf g;
    struct bpe_vocabulary v = {.bos = -1, .eos = -1, .pad = -1};
    // Of a large file only the beginning is here: where tensors lie is for the loader of weights.
    if (gguf_parse(bytes, n, UINT64_MAX / 4, &g, err))
        return -1;
    int bad = read_gguf(&g, &v, err) || bpe_build(t, &v, err) ? -1 : 0;
    bpe_vocabulary_free(&v);
    gguf_free(&g);
    return bad;
}

const struct tokenizer_row tokenizer_gguf = {
    .name = "gguf",
    .help = "the byte-pair encoding inside a GGUF file: byte-level, or SentencePiece's",
    .needs_file = true,
    .head = true,
    .ending = ".gguf",
    .open = gguf_open,
    .close = bpe_close,
    .encode = bpe_encode,
    .piece = bpe_piece,
    .control = bpe_control,
};
