// Every kernel against its plain reference, on every instruction set this CPU has, and every
// backward kernel against differences of its forward.
#include "base/rng.h"
#include "dev/dev.h"
#include "kernels/simd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct kernel_ops *cpu, *ref;
static struct kernel_ctx cx;
static struct rng rng;

static float *random_floats(size_t n, double scale)
{
    float *x = mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * rng_normal(&rng));
    return x;
}

static float *zero_floats(size_t n)
{
    return mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof(float));
}

static float *copy_of(const float *x, size_t n)
{
    return memcpy(zero_floats(n), x, n * sizeof *x);
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

// The largest difference relative to the largest value.
static double distance(const float *a, const float *b, size_t n)
{
    double most = 1e-30, apart = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)b[i]));
        apart = isnan(a[i]) ? INFINITY : fmax(apart, fabs((double)a[i] - b[i]));
    }
    return apart / most;
}

#define CLOSE(a, b, n, most)                                                                       \
    do {                                                                                           \
        double far = distance(a, b, n);                                                            \
        if (!(far <= (most)))                                                                      \
            fail_msg("%s: %s is %g away (%s)", #a, #b, far, kernel_isa_text());                    \
    } while (0)

// Differences: f(x + h d) - f(x - h d) over 2 h against the gradient along d.
#define SLOPE(x, n, dx, f)                                                                         \
    do {                                                                                           \
        for (int round = 0; round < 3; round++) {                                                  \
            float *along = random_floats(n, 1), *was = copy_of(x, n);                              \
            double step_ = 4e-3, up, down, want = dot(dx, along, n);                               \
            for (size_t i = 0; i < (n); i++)                                                       \
                x[i] = (float)(was[i] + step_ * along[i]);                                         \
            up = f;                                                                                \
            for (size_t i = 0; i < (n); i++)                                                       \
                x[i] = (float)(was[i] - step_ * along[i]);                                         \
            down = f;                                                                              \
            memcpy(x, was, (n) * sizeof *was);                                                     \
            double rise = (up - down) / (2 * step_), size = sqrt(dot(dx, dx, n));                  \
            if (!(fabs(rise - want) <= 2e-3 * size + 1e-6))                                        \
                fail_msg("slope of %s along %s is %g, gradient says %g (size %g)", #f, #x, rise,   \
                         want, size);                                                              \
            mem_free(along);                                                                       \
            mem_free(was);                                                                         \
        }                                                                                          \
    } while (0)

// the product.

static void products_of_all_shapes(void **state)
{
    (void)state;
    static const int32_t size[] = {1, 2, 3, 5, 8, 11, 12, 13, 16, 17, 31, 32, 33, 48, 65, 300, 529};
    for (int round = 0; round < 60; round++) {
        int32_t m = size[rng_below(&rng, 15)], n = size[rng_below(&rng, 17)];
        int32_t k = size[rng_below(&rng, 17)];
        int dtype = (int)rng_below(&rng, 3);
        float *x = random_floats((size_t)(m * k), 1), *w = random_floats((size_t)(n * k), 1);
        uint16_t *half = mem_alloc(MEM_OTHER, (size_t)(n * k) * 4);
        kernel_from_f32(dtype, w, (size_t)(n * k), half);
        struct kernel_linear l = {.w = {.w = half, .dtype = dtype, .rows = n, .cols = k, .ld = k}};
        float *y = zero_floats((size_t)(m * n)), *z = zero_floats((size_t)(m * n));
        float *packed = zero_floats(kernel_packed_floats(n, k)), *p = zero_floats((size_t)(m * n));
        ref->linear_fwd(&cx, &l, NULL, x, k, m, NULL, z, n, NULL, 0);
        cpu->linear_fwd(&cx, &l, NULL, x, k, m, NULL, y, n, NULL, 0);
        CLOSE(y, z, (size_t)(m * n), 3e-6);
        kernel_pack_weight(&l.w, packed);
        l.w.packed = packed;
        cpu->linear_fwd(&cx, &l, NULL, x, k, m, NULL, p, n, NULL, 0);
        assert_memory_equal(y, p, (size_t)(m * n) * sizeof *y);
        void *all[] = {x, w, half, y, z, packed, p};
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            mem_free(all[i]);
    }
}

static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { M = 37, N = 75, K = 600 };
    float *x = random_floats(M * K, 1), *w = random_floats(N * K, 1);
    float *all = zero_floats(M * N), *one = zero_floats(N);
    struct kernel_linear l = {.w = {.w = w, .rows = N, .cols = K, .ld = K}};
    cpu->linear_fwd(&cx, &l, NULL, x, K, M, NULL, all, N, NULL, 0);
    for (int i = 0; i < M; i++) {
        cpu->linear_fwd(&cx, &l, NULL, x + i * K, K, 1, NULL, one, N, NULL, 0);
        assert_memory_equal(one, all + i * N, N * sizeof *one);
    }
    mem_free(x);
    mem_free(w);
    mem_free(all);
    mem_free(one);
}

// linear with adapters.

struct lin { // q, k, v-like: three outputs of one input, the second without an adapter when sparse
    struct kernel_linear l;
    float *w, *adapter, *x, *y0, *r;
    size_t n_adapter;
    int32_t m;
};

static struct lin make_linear(int32_t rank, int32_t cols, bool sparse)
{
    struct lin t = {.m = 29};
    int32_t rows[3] = {40, 24, 24}, row0 = 0, n = 88;
    t.w = random_floats((size_t)(n * cols), 0.2);
    t.l =
        (struct kernel_linear){.w = {.w = t.w, .rows = n, .cols = cols, .ld = cols}, .scale = 0.7f};
    for (int i = 0; i < 3; row0 += rows[i++])
        if (i != 1 || !sparse)
            t.l.lora[t.l.n_lora++] =
                (struct kernel_lora){.row0 = row0, .rows = rows[i], .rank = rank};
    t.l.ranks = t.l.n_lora * rank;
    size_t at = (size_t)(t.l.ranks * cols);
    for (int i = 0; i < t.l.n_lora; i++) {
        t.l.lora[i].b = at;
        at += (size_t)(t.l.lora[i].rows * rank);
    }
    t.n_adapter = at;
    t.adapter = random_floats(at, 0.3);
    t.x = random_floats((size_t)(t.m * cols), 1);
    t.y0 = random_floats((size_t)(t.m * n), 1);
    t.r = random_floats((size_t)(t.m * n), 1);
    return t;
}

static void free_linear(struct lin *t)
{
    void *all[] = {t->w, t->adapter, t->x, t->y0, t->r};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
}

static double linear_loss(const struct lin *t)
{
    size_t n = (size_t)(t->m * t->l.w.rows);
    float *y = zero_floats(n), *u = zero_floats((size_t)(t->m * (t->l.ranks + 1)));
    ref->linear_fwd(&cx, &t->l, t->adapter, t->x, t->l.w.cols, t->m, t->y0, y, t->l.w.rows, u,
                    t->l.ranks);
    double sum = dot(y, t->r, n);
    mem_free(y);
    mem_free(u);
    return sum;
}

static void check_linear(int32_t rank, int32_t cols, bool sparse)
{
    struct lin t = make_linear(rank, cols, sparse);
    const struct kernel_linear *l = &t.l;
    int32_t n = l->w.rows, m = t.m;
    size_t ny = (size_t)(m * n), nx = (size_t)(m * cols), nu = (size_t)(m * l->ranks);
    size_t nw = (size_t)(n * cols), na = t.n_adapter;
    float *y = zero_floats(ny), *y_ref = zero_floats(ny);
    float *u = zero_floats(nu), *u_ref = zero_floats(nu);
    cpu->linear_fwd(&cx, l, t.adapter, t.x, cols, m, t.y0, y, n, u, l->ranks);
    ref->linear_fwd(&cx, l, t.adapter, t.x, cols, m, t.y0, y_ref, n, u_ref, l->ranks);
    CLOSE(y, y_ref, ny, 3e-6);
    CLOSE(u, u_ref, nu, 3e-6);
    float *dx = zero_floats(nx), *dx_ref = zero_floats(nx), *dx0 = random_floats(nx, 1);
    float *grad = random_floats(na, 1), *grad_ref = copy_of(grad, na), *grad0 = zero_floats(na);
    float *dw = zero_floats(nw), *dw_ref = zero_floats(nw);
    cpu->linear_bwd(&cx, l, t.adapter, t.r, n, t.x, cols, u, l->ranks, m, dx0, dx, cols, grad, dw);
    ref->linear_bwd(&cx, l, t.adapter, t.r, n, t.x, cols, u, l->ranks, m, dx0, dx_ref, cols,
                    grad_ref, dw_ref);
    CLOSE(dx, dx_ref, nx, 3e-6);
    CLOSE(grad, grad_ref, na, 3e-6);
    CLOSE(dw, dw_ref, nw, 3e-6);
    cpu->linear_bwd(&cx, l, t.adapter, t.r, n, t.x, cols, u, l->ranks, m, NULL, dx, cols, grad0,
                    NULL);
    SLOPE(t.x, nx, dx, linear_loss(&t));
    SLOPE(t.adapter, na, grad0, linear_loss(&t));
    SLOPE(t.w, nw, dw, linear_loss(&t));
    void *all[] = {y, y_ref, u, u_ref, dx, dx_ref, dx0, grad, grad_ref, grad0, dw, dw_ref};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
    free_linear(&t);
}

static void linear_with_adapters(void **state)
{
    (void)state;
    check_linear(8, 40, false);
    check_linear(8, 41, true);
    check_linear(16, 33, false);
    check_linear(3, 270, true);
}

// norm, rope, swiglu.

static double weighted_norm(const float *x, const float *w, int32_t m, int32_t n, const float *r)
{
    float *y = zero_floats((size_t)(m * n));
    ref->rmsnorm_fwd(&cx, x, n, w, m, n, 1e-5f, y, n, NULL);
    double sum = dot(y, r, (size_t)(m * n));
    mem_free(y);
    return sum;
}

static void rmsnorm(void **state)
{
    (void)state;
    for (int32_t n = 16; n <= 43; n += 27) {
        enum { M = 9 };
        size_t all = (size_t)(M * n);
        float *x = random_floats(all, 2), *w = random_floats((size_t)n, 1);
        float *r = random_floats(all, 1), *y = zero_floats(all), *y_ref = zero_floats(all);
        float rstd[M], rstd_ref[M];
        cpu->rmsnorm_fwd(&cx, x, n, w, M, n, 1e-5f, y, n, rstd);
        ref->rmsnorm_fwd(&cx, x, n, w, M, n, 1e-5f, y_ref, n, rstd_ref);
        CLOSE(y, y_ref, all, 1e-6);
        CLOSE(rstd, rstd_ref, M, 1e-6);
        float *dx = random_floats(all, 1), *dx_ref = copy_of(dx, all), *dx0 = zero_floats(all);
        float *dw = zero_floats((size_t)n), *dw_ref = zero_floats((size_t)n);
        cpu->rmsnorm_bwd(&cx, r, n, x, n, w, rstd, M, n, dx, n, dw);
        ref->rmsnorm_bwd(&cx, r, n, x, n, w, rstd, M, n, dx_ref, n, dw_ref);
        CLOSE(dx, dx_ref, all, 2e-6);
        CLOSE(dw, dw_ref, (size_t)n, 2e-6);
        cpu->rmsnorm_bwd(&cx, r, n, x, n, w, rstd, M, n, dx0, n, NULL);
        SLOPE(x, all, dx0, weighted_norm(x, w, M, n, r));
        SLOPE(w, (size_t)n, dw, weighted_norm(x, w, M, n, r));
        void *gone[] = {x, w, r, y, y_ref, dx, dx_ref, dx0, dw, dw_ref};
        for (size_t i = 0; i < ARRAY_LEN(gone); i++)
            mem_free(gone[i]);
    }
}

static void rope_turns_and_turns_back(void **state)
{
    (void)state;
    enum { M = 5, HEADS = 3, DIM = 24, LD = HEADS * DIM + 7, POSITIONS = 9 };
    float cosine[POSITIONS * DIM / 2], sine[POSITIONS * DIM / 2];
    static const int32_t pos[M] = {0, 3, 8, 1, 1};
    for (int i = 0; i < POSITIONS * DIM / 2; i++) {
        float angle = (float)(i / (DIM / 2)) * (0.2f + 0.1f * (float)(i % (DIM / 2)));
        cosine[i] = cosf(angle);
        sine[i] = sinf(angle);
    }
    for (int style = KERNEL_ROPE_HALF; style <= KERNEL_ROPE_PAIR; style++) {
        struct kernel_rope r = {cosine, sine, HEADS, DIM, style, 1};
        float *x = random_floats(M * LD, 1), *y = copy_of(x, M * LD), *was = copy_of(x, M * LD);
        cpu->rope(&cx, &r, pos, M, x, LD);
        ref->rope(&cx, &r, pos, M, y, LD);
        CLOSE(x, y, M * LD, 1e-6);
        // Two rows of the same content one position apart keep their length; position 0 is
        // untouched.
        assert_memory_equal(x, was, HEADS * DIM * sizeof *x);
        assert_true(fabs(dot(x + LD, x + LD, DIM) - dot(was + LD, was + LD, DIM)) < 1e-4);
        assert_true(distance(x + LD, was + LD, DIM) > 0.01);
        r.sign = -1; // the transpose, which is the inverse
        cpu->rope(&cx, &r, pos, M, x, LD);
        CLOSE(x, was, M * LD, 1e-6);
        mem_free(x);
        mem_free(y);
        mem_free(was);
    }
}

static double weighted_swiglu(const float *gu, int32_t m, int32_t n, const float *r)
{
    float *h = zero_floats((size_t)(m * n));
    ref->swiglu_fwd(&cx, gu, 2 * n, m, n, h, n);
    double sum = dot(h, r, (size_t)(m * n));
    mem_free(h);
    return sum;
}

static void swiglu(void **state)
{
    (void)state;
    enum { M = 7, N = 27 };
    float *gu = random_floats(M * 2 * N, 2), *r = random_floats(M * N, 1);
    gu[3] = 100.0f; // saturated both ways
    gu[4] = -100.0f;
    float *h = zero_floats(M * N), *h_ref = zero_floats(M * N);
    cpu->swiglu_fwd(&cx, gu, 2 * N, M, N, h, N);
    ref->swiglu_fwd(&cx, gu, 2 * N, M, N, h_ref, N);
    CLOSE(h, h_ref, M * N, 1e-6);
    float *d = zero_floats(M * 2 * N), *d_ref = zero_floats(M * 2 * N);
    cpu->swiglu_bwd(&cx, gu, 2 * N, r, N, M, N, d);
    ref->swiglu_bwd(&cx, gu, 2 * N, r, N, M, N, d_ref);
    CLOSE(d, d_ref, M * 2 * N, 1e-6);
    SLOPE(gu, M * 2 * N, d, weighted_swiglu(gu, M, N, r));
    float *in_place = copy_of(gu, M * 2 * N);
    cpu->swiglu_bwd(&cx, in_place, 2 * N, r, N, M, N, in_place);
    assert_memory_equal(in_place, d, M * 2 * N * sizeof *d);
    void *gone[] = {gu, r, h, h_ref, d, d_ref, in_place};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

// attention.

static double weighted_attention(const struct kernel_attn *a, const struct kernel_seqs *s,
                                 const float *qkv, int32_t ld, const float *r, int32_t ldo)
{
    size_t m = (size_t)s->start[s->n];
    float *out = zero_floats(m * (size_t)ldo), *lse = zero_floats(m * (size_t)a->heads);
    ref->attention_fwd(&cx, a, s, qkv, ld, out, ldo, lse, NULL);
    double sum = dot(out, r, m * (size_t)ldo);
    mem_free(out);
    mem_free(lse);
    return sum;
}

static void check_attention(int32_t dim, const int32_t *start, int32_t n_seqs, bool sizes)
{
    struct kernel_attn a = {
        .heads = 4, .kv_heads = 2, .head_dim = dim, .scale = 1.0f / sqrtf((float)dim)};
    float *log_size = zero_floats((size_t)start[n_seqs]);
    for (int32_t i = 0; i < start[n_seqs]; i++)
        log_size[i] = logf(1 + (float)rng_below(&rng, 5));
    a.log_size = sizes ? log_size : NULL;
    struct kernel_seqs s = {.n = n_seqs, .rows = start[n_seqs], .start = start};
    int32_t m = start[n_seqs], ld = 8 * dim, ldo = 4 * dim;
    size_t nq = (size_t)(m * ld), no = (size_t)(m * ldo), nl = (size_t)(m * 4), nm = (size_t)m;
    float *qkv = random_floats(nq, 1), *r = random_floats(no, 1);
    float *out = zero_floats(no), *out_ref = zero_floats(no), *lse = zero_floats(nl);
    float *lse_ref = zero_floats(nl), *got = zero_floats(nm), *got_ref = zero_floats(nm);
    cpu->attention_fwd(&cx, &a, &s, qkv, ld, out, ldo, lse, got);
    ref->attention_fwd(&cx, &a, &s, qkv, ld, out_ref, ldo, lse_ref, got_ref);
    CLOSE(out, out_ref, no, 3e-6);
    CLOSE(lse, lse_ref, nl, 3e-6);
    CLOSE(got, got_ref, nm, 3e-6);
    double total = 0;
    for (int32_t i = 0; i < m; i++)
        total += (double)got[i];
    assert_true(fabs(total - 4.0 * m) < 1e-3 * m); // every query gives 1 a head
    float *d = random_floats(nq, 1), *d_ref = zero_floats(nq);
    cpu->attention_bwd(&cx, &a, &s, qkv, ld, out, r, ldo, lse, d);
    ref->attention_bwd(&cx, &a, &s, qkv, ld, out_ref, r, ldo, lse_ref, d_ref);
    CLOSE(d, d_ref, nq, 1e-5);
    if (m < 64)
        SLOPE(qkv, nq, d, weighted_attention(&a, &s, qkv, ld, r, ldo));
    // Token by token through a cache: the same rows.
    for (int32_t q = 0; q < n_seqs && !sizes; q++) {
        size_t len = (size_t)(start[q + 1] - start[q]), row = (size_t)(2 * dim);
        float *k = zero_floats(len * row), *v = zero_floats(len * row);
        float *one = zero_floats((size_t)ldo);
        int32_t have = 0;
        struct kernel_cache c = {.k = &k, .v = &v, .n = &have};
        for (int32_t i = start[q]; i < start[q + 1]; i++, have++) {
            cpu->attention_step(&cx, &a, &c, 1, qkv + i * ld, ld, one, ldo);
            CLOSE(one, out_ref + i * ldo, (size_t)ldo, 5e-6);
            ref->attention_step(&cx, &a, &c, 1, qkv + i * ld, ld, one, ldo);
            CLOSE(one, out_ref + i * ldo, (size_t)ldo, 5e-6);
        }
        mem_free(k);
        mem_free(v);
        mem_free(one);
    }
    void *gone[] = {qkv, r, out, out_ref, lse, lse_ref, got, got_ref, d, d_ref, log_size};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

static void attention(void **state)
{
    (void)state;
    for (int sizes = 0; sizes < 2; sizes++) {
        check_attention(24, (const int32_t[]){0, 33, 34, 51}, 3, sizes);
        check_attention(7, (const int32_t[]){0, 20}, 1, sizes);
        check_attention(16, (const int32_t[]){0, 17, 150, 199}, 3, sizes);
        check_attention(48, (const int32_t[]){0, 5}, 1, sizes);
    }
}

// A key of size n is n equal keys.
static void sizes_count_keys_as_often(void **state)
{
    (void)state;
    enum { DIM = 6, LD = 3 * DIM, N = 5 };
    struct kernel_attn a = {.heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 0.4f};
    const int32_t few[] = {0, N}, all[] = {0, N + 2}, from[N + 2] = {0, 1, 1, 1, 2, 3, 4};
    float log_size[N] = {0, logf(3), 0, 0, 0}, lse[N + 2], *out = zero_floats(N * DIM);
    float *qkv = random_floats(N * LD, 1), *copies = zero_floats((N + 2) * LD);
    float *want = zero_floats((N + 2) * DIM);
    for (int i = 0; i < N + 2; i++)
        memcpy(copies + i * LD, qkv + from[i] * LD, LD * sizeof *qkv);
    cpu->attention_fwd(&cx, &a, &(struct kernel_seqs){1, N + 2, N + 2, all}, copies, LD, want, DIM,
                       lse, NULL);
    a.log_size = log_size;
    cpu->attention_fwd(&cx, &a, &(struct kernel_seqs){1, N, N, few}, qkv, LD, out, DIM, lse, NULL);
    CLOSE(out + 2 * DIM, want + 4 * DIM, 3 * DIM, 3e-6);
    void *gone[] = {out, qkv, copies, want};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

// merging.

// Keys on a circle, two heads of half each: 2 is likest 5 but may look only one ahead, or three.
static void matches_by_hand(void **state)
{
    (void)state;
    static const float degrees[] = {0, 1, 10, 50, 60, 15, 90, 91, 92, 180, /**/ 0, 0, 0, 0, 0, 0};
    enum { N = ARRAY_LEN(degrees), FIRST = 10 };
    static const int32_t start[] = {0, FIRST, N};
    static const struct {
        int32_t window, free[2];
        double ratio;
        int32_t want[N];
    } cases[] = {
        // Pairs 2-3 (40 apart), 4-5 (45), 6-7 (1), 8-9 (88); ties in the second go to the earlier.
        {1, {10, 6}, 0.5, {0, 1, 3, 3, 5, 5, 7, 7, 9, 9, 10, 11, 13, 13, 15, 15}},
        {2, {10, 6}, 0.29, {0, 1, 3, 3, 4, 5, 7, 7, 8, 9, 10, 11, 13, 13, 14, 15}},
        // 2-5 (5 apart), 4-7 (31), and only a quarter: 6-7 and 2-5.
        {3, {10, 6}, 0.25, {0, 1, 5, 3, 4, 5, 7, 7, 8, 9, 10, 11, 13, 13, 14, 15}},
        {3, {10, 6}, 0.5, {0, 1, 5, 3, 7, 5, 7, 7, 9, 9, 10, 11, 13, 13, 15, 15}},
        // What is protected is in no pair: of 7, 6 has no partner; of 2 and 0 nobody has.
        {9, {7, 2}, 0.5, {0, 1, 5, 3, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
        {9, {10, 0}, 0, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
    };
    struct kernel_seqs seqs = {2, N, FIRST, start};
    float key[N][4];
    for (int i = 0; i < N; i++) {
        double t = degrees[i] * 3.14159265358979 / 180, size = 1 + i % 3; // length must not matter
        key[i][0] = (float)(0.25 * size * cos(t));
        key[i][1] = (float)(-0.5 * size * sin(t));
        key[i][2] = (float)(0.75 * size * cos(t));
        key[i][3] = (float)(1.5 * size * sin(t));
    }
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int way = 0; way < 2; way++) {
            struct kernel_merge g = {2, 2, cases[i].window, cases[i].ratio};
            int32_t got[N];
            (way ? ref : cpu)->merge_match(&cx, &g, &seqs, cases[i].free, key[0], 4, got);
            for (int r = 0; r < N; r++)
                if (got[r] != cases[i].want[r])
                    fail_msg("case %zu, way %d: row %d goes to %d, expected %d", i, way, r, got[r],
                             cases[i].want[r]);
        }
}

static void merging(void **state)
{
    (void)state;
    enum { M = 75, DIM = 20, HEADS = 3, LD = DIM * HEADS + 5, COLS = 37, LDX = 40 };
    static const int32_t start[] = {0, 40, 41, M}, free[] = {40, 1, 25};
    struct kernel_seqs seqs = {3, M, 40, start};
    struct kernel_merge g = {HEADS, DIM, 6, 0.3};
    int32_t partner[M], want[M], into[M], rows = 0;
    float *key = random_floats(M * LD, 1), *x = random_floats(M * LDX, 1), share[M];
    float *y = random_floats(M * LDX, 1), *z = copy_of(y, M * LDX);
    cpu->merge_match(&cx, &g, &seqs, free, key, LD, partner);
    ref->merge_match(&cx, &g, &seqs, free, key, LD, want);
    assert_memory_equal(partner, want, sizeof want);
    for (int32_t i = 0; i < M; i++) {
        into[i] = rows;
        rows += partner[i] == i;
        share[i] = (float)rng_unit(&rng);
    }
    assert_int_equal(rows, M - 12 - 7);
    for (int32_t i = M - 1; i >= 0; i--)
        into[i] = partner[i] == i ? into[i] : into[partner[i]];
    cpu->merge_rows(&cx, x, LDX, into, share, M, COLS, y, LDX, rows);
    ref->merge_rows(&cx, x, LDX, into, share, M, COLS, z, LDX, rows);
    CLOSE(y, z, (size_t)(rows * LDX), 1e-6);
    float *dx = copy_of(key, M * LDX), *dx_ref = copy_of(key, M * LDX);
    cpu->merge_rows_bwd(&cx, y, LDX, into, share, M, COLS, dx, LDX);
    ref->merge_rows_bwd(&cx, y, LDX, into, share, M, COLS, dx_ref, LDX);
    CLOSE(dx, dx_ref, M * LDX, 1e-6);
    double forward = 0, backward = 0; // <y, P x> = <P' y, x>
    for (int32_t i = 0; i < rows; i++)
        forward += dot(y + i * LDX, y + i * LDX, COLS);
    for (int32_t i = 0; i < M; i++)
        backward += dot(dx + i * LDX, x + i * LDX, COLS);
    assert_true(fabs(forward - backward) < 1e-4 * forward);
    void *gone[] = {key, x, y, z, dx, dx_ref};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

// head.

static double weighted_ce(const struct kernel_weight *w, const float *x, int32_t m,
                          const int32_t *target, const float *weight)
{
    float *loss = zero_floats((size_t)m);
    ref->ce_head(&cx, w, x, w->cols, m, target, weight, loss, NULL, NULL, 0, NULL);
    double sum = dot(loss, weight, (size_t)m);
    mem_free(loss);
    return sum;
}

static void check_ce(int32_t vocab, int32_t cols, int32_t m, bool slopes)
{
    size_t nx = (size_t)(m * cols), nw = (size_t)(vocab * cols), nm = (size_t)m;
    float *x = random_floats(nx, 1), *e = random_floats(nw, 0.7), *weight = random_floats(nm, 1);
    struct kernel_weight w = {.w = e, .rows = vocab, .cols = cols, .ld = cols};
    int32_t *target = mem_alloc(MEM_OTHER, nm * sizeof *target);
    int32_t *best = mem_alloc(MEM_OTHER, nm * 4), *best_ref = mem_alloc(MEM_OTHER, nm * 4);
    for (int32_t i = 0; i < m; i++)
        target[i] = i == 1 ? -1 : (int32_t)rng_below(&rng, (uint32_t)vocab);
    float *loss = zero_floats(nm), *loss_ref = zero_floats(nm), *dx = zero_floats(nx);
    float *dx_ref = zero_floats(nx), *dw = zero_floats(nw), *dw_ref = zero_floats(nw);
    cpu->ce_head(&cx, &w, x, cols, m, target, weight, loss, best, dx, cols, dw);
    ref->ce_head(&cx, &w, x, cols, m, target, weight, loss_ref, best_ref, dx_ref, cols, dw_ref);
    CLOSE(loss, loss_ref, nm, 2e-6);
    CLOSE(dx, dx_ref, nx, 5e-6);
    CLOSE(dw, dw_ref, nw, 5e-6);
    assert_memory_equal(best, best_ref, nm * sizeof *best);
    assert_true(loss[1] == 0 && dot(dx + cols, dx + cols, (size_t)cols) == 0);
    float *alone = zero_floats(nx);
    for (int32_t i = 0; i < m; i++)
        cpu->ce_head(&cx, &w, x + i * cols, cols, 1, target + i, weight + i, NULL, NULL,
                     alone + i * cols, cols, NULL);
    assert_memory_equal(alone, dx, nx * sizeof *dx); // a row does not depend on its batch
    if (slopes) {
        SLOPE(x, nx, dx, weighted_ce(&w, x, m, target, weight));
        SLOPE(e, nw, dw, weighted_ce(&w, x, m, target, weight));
    }
    void *gone[] = {x,        e,  weight, target, best,   best_ref, loss,
                    loss_ref, dx, dx_ref, dw,     dw_ref, alone};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

// A model that diverged still names a word: what is read next is an embedding.
static void check_ce_of_nan(const struct kernel_ops *op, int32_t vocab)
{
    enum { COLS = 19, ROWS = 5 };
    int32_t target[ROWS] = {0, -1, 3, -1, 1}, best[ROWS];
    float *x = random_floats(ROWS * COLS, 1), *e = random_floats((size_t)(vocab * COLS), 0.7);
    struct kernel_weight w = {.w = e, .rows = vocab, .cols = COLS, .ld = COLS};
    memset(best, 0x7f, sizeof best);
    for (int32_t i = 0; i < 3 * COLS; i++) // the last two rows are sound
        x[i] = i < COLS ? NAN : i < 2 * COLS ? INFINITY : i % 2 ? INFINITY : -INFINITY;
    op->ce_head(&cx, &w, x, COLS, ROWS, target, NULL, NULL, best, NULL, 0, NULL);
    for (int32_t i = 0; i < ROWS; i++)
        assert_in_range(best[i], 0, vocab - 1);
    assert_int_equal(best[0], 0);
    mem_free(x);
    mem_free(e);
}

static void cross_entropy(void **state)
{
    (void)state;
    for (int32_t vocab = 37; vocab < 2000; vocab += 1300) {
        check_ce_of_nan(cpu, vocab);
        check_ce_of_nan(ref, vocab);
    }
    check_ce(37, 19, 11, true);
    check_ce(800, 32, 5, false);
    check_ce(1500, 17, 6, false); // three tiles
}

// embedding, optimizers, rows, stored types.

static void embeddings(void **state)
{
    (void)state;
    enum { M = 9, V = 12, C = 21 };
    static const int32_t tokens[M] = {3, 0, 11, 3, 3, 7, 1, 0, 2};
    float *e = random_floats(V * C, 1), *x = zero_floats(M * C), *y = zero_floats(M * C);
    for (int dtype = 0; dtype < KERNEL_DTYPES; dtype++) {
        uint32_t stored[V * C];
        kernel_from_f32(dtype, e, V * C, stored);
        struct kernel_weight w = {.w = stored, .dtype = dtype, .rows = V, .cols = C, .ld = C};
        cpu->embed_fwd(&cx, &w, tokens, M, x, C);
        ref->embed_fwd(&cx, &w, tokens, M, y, C);
        assert_memory_equal(x, y, M * C * sizeof *x);
        CLOSE(x + 2 * C, e + 11 * C, C,
              dtype == KERNEL_F32   ? 0
              : dtype == KERNEL_F16 ? 5e-4
                                    : 4e-3);
    }
    float sq[M], sq_ref[M], *d = zero_floats(V * C), *d_ref = zero_floats(V * C);
    cpu->embed_bwd(&cx, x, C, tokens, M, C, sq, d);
    ref->embed_bwd(&cx, x, C, tokens, M, C, sq_ref, d_ref);
    CLOSE(sq, sq_ref, M, 1e-6);
    CLOSE(d, d_ref, V * C, 1e-6);
    static const int32_t rows[3] = {1, 4, 8};
    float *g = zero_floats(3 * C), *g_ref = zero_floats(3 * C);
    cpu->gather_rows(&cx, x, C, rows, 3, C, g, C);
    ref->gather_rows(&cx, x, C, rows, 3, C, g_ref, C);
    assert_memory_equal(g, g_ref, 3 * C * sizeof *g);
    cpu->scatter_rows(&cx, g, C, rows, 3, C, x, C, M);
    ref->scatter_rows(&cx, g, C, rows, 3, C, y, C, M);
    assert_memory_equal(x, y, M * C * sizeof *x);
    void *gone[] = {e, x, y, d, d_ref, g, g_ref};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        mem_free(gone[i]);
}

static void optimizers(void **state)
{
    (void)state;
    enum { N = 2571, ARRAYS = 6 };
    for (int kind = 0; kind < 2; kind++) {
        float *a[ARRAYS], *b[ARRAYS]; // w, mean, var, ema, sum, grad ema
        for (int i = 0; i < ARRAYS; i++) {
            a[i] = i == 0 ? random_floats(N, 1) : zero_floats(N);
            b[i] = copy_of(a[i], N);
        }
        for (int step = 1; step <= 5; step++) {
            float *g = random_floats(N, 0.1);
            g[7] = 0;
            struct kernel_fisher fa = {a[3], a[4], a[5], 0.9f}, fb = {b[3], b[4], b[5], 0.9f};
            struct kernel_adamw h = {1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 0, 0, 0.5f};
            h.correct1 = 1.0f / (1.0f - powf(0.9f, (float)step));
            h.correct2 = 1.0f / (1.0f - powf(0.99f, (float)step));
            struct kernel_sgd s = {1e-2f, 0.9f, 0.1f, 0.5f};
            if (kind == 0) {
                cpu->adamw(&cx, &h, a[0], a[1], a[2], g, N);
                ref->adamw(&cx, &h, b[0], b[1], b[2], g, N);
            } else {
                cpu->sgd(&cx, &s, a[0], a[1], g, N);
                ref->sgd(&cx, &s, b[0], b[1], g, N);
            }
            cpu->fisher(&cx, &fa, g, N);
            ref->fisher(&cx, &fb, g, N);
            mem_free(g);
        }
        for (int i = 0; i < ARRAYS; i++) {
            CLOSE(a[i], b[i], N, 3e-6);
            mem_free(a[i]);
            mem_free(b[i]);
        }
    }
    float *x = random_floats(N, 1), *y = random_floats(N, 1), *z = copy_of(y, N);
    double sum, sum_ref;
    cpu->sum_squares(&cx, x, N, &sum);
    ref->sum_squares(&cx, x, N, &sum_ref);
    assert_true(fabs(sum - sum_ref) < 1e-6 * sum_ref);
    cpu->add(&cx, x, N, y);
    ref->add(&cx, x, N, z);
    assert_memory_equal(y, z, N * sizeof *y);
    mem_free(x);
    mem_free(y);
    mem_free(z);
}

static void halves_widen_exactly(void **state)
{
    (void)state;
    uint16_t *h = mem_alloc(MEM_OTHER, 65536 * 2), *back = mem_alloc(MEM_OTHER, 65536 * 2);
    float *x = zero_floats(65536);
    for (uint32_t i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (int dtype = KERNEL_BF16; dtype <= KERNEL_F16; dtype++) {
        kernel_to_f32(dtype, h, 65536, x);
        kernel_from_f32(dtype, x, 65536, back);
        for (uint32_t i = 0; i < 65536; i++)
            assert_true(isnan(x[i]) || back[i] == h[i]);
    }
    mem_free(h);
    mem_free(back);
    mem_free(x);
}

static void not_on_this_cpu(void **state)
{
    (void)state;
    skip();
}

static int limit_isa(void **state)
{
    simd_limit(*(const enum simd_isa *)*state);
    rng = rng_stream(7, RNG_TEST, 1, 0, 0);
    return 0;
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } row[] = {
        {"products_of_all_shapes", products_of_all_shapes},
        {"rows_do_not_depend_on_the_batch", rows_do_not_depend_on_the_batch},
        {"linear_with_adapters", linear_with_adapters},
        {"rmsnorm", rmsnorm},
        {"rope_turns_and_turns_back", rope_turns_and_turns_back},
        {"swiglu", swiglu},
        {"attention", attention},
        {"sizes_count_keys_as_often", sizes_count_keys_as_often},
        {"matches_by_hand", matches_by_hand},
        {"merging", merging},
        {"cross_entropy", cross_entropy},
        {"embeddings", embeddings},
        {"optimizers", optimizers},
        {"halves_widen_exactly", halves_widen_exactly},
    };
    enum { ROWS = ARRAY_LEN(row) };
    static enum simd_isa isas[] = {SIMD_BASE, SIMD_AVX2, SIMD_AVX512};
    struct CMUnitTest tests[ROWS * SIMD_ISA_COUNT] = {0};
    char names[ROWS * SIMD_ISA_COUNT][64];
    size_t n_isas = (size_t)simd_isa() + 1;
    for (size_t i = 0; i < ROWS * n_isas; i++) {
        snprintf(names[i], sizeof names[i], "%s_%s", simd_isa_name[i / ROWS], row[i % ROWS].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = row[i % ROWS].run,
                                       .setup_func = limit_isa,
                                       .initial_state = &isas[i / ROWS]};
    }
    for (size_t i = ROWS * n_isas; i < ARRAY_LEN(tests); i++) { // cmocka wants a fixed array
        snprintf(names[i], sizeof names[i], "absent_%s", row[i % ROWS].name);
        tests[i] = (struct CMUnitTest){.name = names[i], .test_func = not_on_this_cpu};
    }
    cpu = dev_table[0]->ops;
    ref = dev_table[1]->ops;
    cx.work_floats = kernel_work_floats(600, 600, 600, 64, 64);
    cx.work = zero_floats(cx.work_floats);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mem_free(cx.work);
    return failed;
}
