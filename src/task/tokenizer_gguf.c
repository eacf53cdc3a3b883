// A vocabulary from the keys of a GGUF file.
#include "base/mem.h"
#include "task/bpe.h"

#include <string.h>

static int32_t special_id(const struct gguf *g, const char *name)
{
    const struct gguf_key *k = gguf_find(g, name);
    int64_t v = -1;
    return k && gguf_int(k, &v) == 0 && v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
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
        v->kind[i] = type == 4 ? BPE_ADDED : type == 1 || type == 6 ? BPE_NORMAL : BPE_CONTROL;
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

static int read_gguf(const struct gguf *g, struct bpe_vocabulary *v, struct err *err)
{
    const struct gguf_key *model = gguf_find(g, "tokenizer.ggml.model");
    const struct gguf_key *pre = gguf_find(g, "tokenizer.ggml.pre");
    size_t at = 0;
    struct gguf_text name =
        model && model->type == GGUF_STRING ? gguf_next(model, &at) : (struct gguf_text){"none", 4};
    if (!gguf_is(name, "gpt2"))
        return err_set(err, "tokenizer.ggml.model is %.*s: only gpt2 (byte-level BPE) is read here",
                       (int)(name.n < 60 ? name.n : 60), name.p);
    at = 0;
    name = pre && pre->type == GGUF_STRING ? gguf_next(pre, &at) : (struct gguf_text){"gpt-2", 5};
    v->pretoken = pretoken_find(name.p, name.n);
    if (!v->pretoken)
        return err_set(err,
                       "tokenizer.ggml.pre is %.*s: gpt-2, smollm, llama-bpe and qwen2 are known",
                       (int)(name.n < 60 ? name.n : 60), name.p);
    v->whole = strcmp(v->pretoken->name, "llama-bpe") == 0;
    const struct gguf_key *add = gguf_find(g, "tokenizer.ggml.add_bos_token");
    int64_t adds = 0;
    if (add && gguf_int(add, &adds) == 0 && adds)
        v->bos = special_id(g, "tokenizer.ggml.bos_token_id");
    v->eos = special_id(g, "tokenizer.ggml.eos_token_id");
    v->pad = special_id(g, "tokenizer.ggml.padding_token_id");
    return gguf_tokens(g, v, err) || gguf_merges(g, v, err) ? -1 : 0;
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
    .help = "the byte-level BPE inside a GGUF file",
    .needs_file = true,
    .head = true,
    .ending = ".gguf",
    .open = gguf_open,
    .close = bpe_close,
    .encode = bpe_encode,
    .piece = bpe_piece,
};
