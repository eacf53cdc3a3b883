// Every operation on every row of dev_table against the plain reference, the CPU's with every
// instruction set that it has, the GPU's emulated in several orders of its threads, the long tests
// in more; and every backward operation against differences of its forward. test_kernels ROW
// [ORDER]: these alone.
#include "base/half.h"
#include "base/rng.h"
#include "dev/dev.h"
#include "kernels/simd.h"
#include "tests/emu/emu_run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { REF, ROW, SIDES }; // the reference, and the row under test
static struct dev dev[SIDES];
static int side;         // where an operation runs now
static int32_t math_now; // the row's dev.math
static struct rng rng;

// An array on both devices. Outputs that are not given begin as NaN.
enum kind { FLOATS, ACTS, INTS, BYTES };
struct twin {
    void *on[SIDES];
    size_t n;
    enum kind kind;
};

enum { BLOCKS = 4096 };
static struct twin twins[BLOCKS];
static void *hosts[BLOCKS];
static int n_twins, n_hosts;

static void *host(size_t size_bytes)
{
    assert_true(n_hosts < BLOCKS);
    return hosts[n_hosts++] = mem_alloc(MEM_OTHER, size_bytes + KERNEL_SLACK * sizeof(float));
}

static size_t size_of(enum kind kind, const struct dev *d)
{
    return kind == BYTES ? 1 : kind == ACTS ? kernel_dtype_bytes(d->act) : 4;
}

// Blocks hold what they must and the slack that fp32 arrays need, filled with NaN.
static struct twin both(enum kind kind, const void *x, size_t n)
{
    struct twin t = {.n = n, .kind = kind};
    for (int s = 0; s < SIDES; s++) {
        size_t size = size_of(kind, &dev[s]), slack = kind == INTS ? 0 : KERNEL_SLACK;
        void *here = mem_alloc(MEM_OTHER, (n + slack) * size);
        memset(here, 0xff, (n + slack) * size);
        if (x && kind == ACTS && s == REF) { // which begins with what the row has
            kernel_from_f32(dev[ROW].act, x, n, here);
            uint16_t *few = host(n * sizeof *few);
            if (dev[ROW].act != KERNEL_F32) {
                memcpy(few, here, n * sizeof *few);
                kernel_to_f32(dev[ROW].act, few, n, here);
            }
        } else if (x && kind == ACTS) {
            kernel_from_f32(dev[s].act, x, n, here);
        } else if (x) {
            memcpy(here, x, n * size);
        }
        t.on[s] = dev[s].row->alloc(&dev[s], MEM_OTHER, (n + slack) * size);
        dev_put(&dev[s], t.on[s], here, (n + slack) * size);
        mem_free(here);
    }
    assert_true(n_twins < BLOCKS);
    return twins[n_twins++] = t;
}

static float *random_values(size_t n, double scale)
{
    float *x = host(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * rng_normal(&rng));
    return x;
}

static struct twin random_floats(size_t n, double scale)
{
    return both(FLOATS, random_values(n, scale), n);
}

static struct twin random_acts(size_t n, double scale)
{
    return both(ACTS, random_values(n, scale), n);
}

static struct twin zero_floats(size_t n)
{
    return both(FLOATS, host(n * sizeof(float)), n);
}

// As a device has it, in the host's memory; activations in fp32.
static void *values(struct twin t, int s)
{
    size_t size = size_of(t.kind, &dev[s]);
    float *x = host(t.n * 4);
    void *raw = host(t.n * size);
    dev_get(&dev[s], raw, t.on[s], t.n * size);
    if (t.kind != ACTS)
        return raw;
    kernel_to_f32(dev[s].act, raw, t.n, x);
    return x;
}

// What an operation is given.
#define A(t) ((kernel_act *)(t).on[side])
#define F(t) ((float *)(t).on[side])
#define I(t) ((int32_t *)(t).on[side])
#define CX   (&dev[side].lane[0].cx)

#define OP_NAME(name) #name,
static const char *const op_name[] = {KERNEL_OPS(OP_NAME)};
#define OP_ID(name) OP_##name,
enum { KERNEL_OPS(OP_ID) OPS };
static bool tried[OPS];

// On both sides, or on one of them.
#define RUN_ON(from, to, op, ...)                                                                  \
    do {                                                                                           \
        if (!dev[ROW].ops->op)                                                                     \
            skip();                                                                                \
        tried[OP_##op] = true;                                                                     \
        for (side = (from); side <= (to); side++) {                                                \
            dev[side].ops->op(CX, __VA_ARGS__);                                                    \
            dev[side].row->wait(&dev[side], 0);                                                    \
        }                                                                                          \
    } while (0)
#define RUN(op, ...)     RUN_ON(REF, ROW, op, __VA_ARGS__)
#define RUN_REF(op, ...) RUN_ON(REF, REF, op, __VA_ARGS__)
#define RUN_ROW(op, ...) RUN_ON(ROW, ROW, op, __VA_ARGS__)

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

#define CLOSE_VALUES(a, b, n, most)                                                                \
    do {                                                                                           \
        double far = distance(a, b, n);                                                            \
        if (!(far <= (most)))                                                                      \
            fail_msg("%s: %s is %g away (%s)", dev[ROW].row->name, #a, far, simd_text());          \
    } while (0)

// The row's array against the reference's; bounds are those of fp32.
static double bound(double fp32)
{
    const double half = dev[ROW].act == KERNEL_BF16 ? 2e-2 : 3e-3; // weights are rounded, too
    return dev[ROW].act == KERNEL_F32 ? fp32 : fmax(fp32, half);
}
#define CLOSE(t, most)                                                                             \
    do {                                                                                           \
        double far = distance(values(t, ROW), values(t, REF), (t).n);                              \
        if (!(far <= bound(most)))                                                                 \
            fail_msg("%s: %s is %g away (%s)", dev[ROW].row->name, #t, far, simd_text());          \
    } while (0)
#define SAME(t) assert_memory_equal(values(t, ROW), values(t, REF), (t).n * 4)

// Differences: f(x + h d) - f(x - h d) over 2 h against the gradient along d. f runs the reference,
// whose arrays are the host's.
#define SLOPE(x, grad, f)                                                                          \
    do {                                                                                           \
        float *x_ = (x).on[REF];                                                                   \
        const float *grad_ = (grad);                                                               \
        for (int round = 0; round < 3; round++) {                                                  \
            float *along = random_values((x).n, 1), *was = values(x, REF);                         \
            double step_ = 4e-3, up, down, want = dot(grad_, along, (x).n);                        \
            for (size_t i = 0; i < (x).n; i++)                                                     \
                x_[i] = (float)(was[i] + step_ * along[i]);                                        \
            up = f;                                                                                \
            for (size_t i = 0; i < (x).n; i++)                                                     \
                x_[i] = (float)(was[i] - step_ * along[i]);                                        \
            down = f;                                                                              \
            memcpy(x_, was, (x).n * sizeof *was);                                                  \
            double rise = (up - down) / (2 * step_), size = sqrt(dot(grad_, grad_, (x).n));        \
            if (!(fabs(rise - want) <= bound(2e-3) * size + 1e-6))                                 \
                fail_msg("slope of %s along %s is %g, gradient says %g (size %g)", #f, #x, rise,   \
                         want, size);                                                              \
        }                                                                                          \
    } while (0)

// the product.

static const struct kernel_linear *with(struct kernel_linear *l, struct twin w)
{
    l->w.w = w.on[side];
    return l;
}

static void products_of_all_shapes(void **state)
{
    (void)state;
    static const int32_t size[] = {1, 2, 3, 5, 8, 11, 12, 13, 16, 17, 31, 32, 33, 48, 65, 300, 529};
    for (int round = 0; round < 60; round++) {
        int32_t m = size[rng_below(&rng, 15)], n = size[rng_below(&rng, 17)];
        int32_t k = size[rng_below(&rng, 17)], ld = k + (int32_t)rng_below(&rng, 2) * 3;
        int dtype = (int)rng_below(&rng, 3);
        size_t values_w = (size_t)(n * ld);
        uint16_t *stored = host(values_w * 4);
        kernel_from_f32(dtype, random_values(values_w, 1), values_w, stored);
        struct twin x = random_acts((size_t)(m * k), 1);
        struct twin w = both(BYTES, stored, values_w * kernel_dtype_bytes(dtype));
        struct twin y = both(ACTS, NULL, (size_t)(m * n)), p = both(ACTS, NULL, (size_t)(m * n));
        struct kernel_linear l = {.w = {.dtype = dtype, .rows = n, .cols = k, .ld = ld}};
        RUN(linear_fwd, with(&l, w), NULL, A(x), k, m, NULL, A(y), n, NULL, 0);
        CLOSE(y, 3e-6);
        if (!dev[ROW].row->host)
            continue;
        float *packed = host(kernel_packed_floats(n, k) * sizeof *packed);
        l.w.w = w.on[ROW];
        kernel_pack_weight(&l.w, packed);
        l.w.packed = packed;
        RUN_ROW(linear_fwd, &l, NULL, A(x), k, m, NULL, A(p), n, NULL, 0);
        assert_memory_equal(values(y, ROW), values(p, ROW), y.n * sizeof(float));
    }
}

static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { M = 37, N = 75, K = 600 };
    struct twin x = random_acts(M * K, 1), w = random_floats(N * K, 1);
    struct twin all = both(ACTS, NULL, M * N), one = both(ACTS, NULL, N);
    struct kernel_linear l = {.w = {.rows = N, .cols = K, .ld = K}};
    RUN_ROW(linear_fwd, with(&l, w), NULL, A(x), K, M, NULL, A(all), N, NULL, 0);
    const float *whole = values(all, ROW);
    for (size_t i = 0; i < M; i++) {
        RUN_ROW(linear_fwd, with(&l, w), NULL, kernel_act_at(CX, A(x), i * K), K, 1, NULL, A(one),
                N, NULL, 0);
        const float *alone = values(one, ROW);
        if (dev[ROW].row->rows_alone)
            assert_memory_equal(alone, whole + i * N, N * sizeof(float));
        else
            CLOSE_VALUES(alone, whole + i * N, N, bound(3e-6));
    }
}

static float to_bf16(float x)
{
    uint16_t h = bf16_from_f32(x);
    return bf16_to_f32(h);
}

// In bf16 each element is a chain of exact products, of each two k the second first: the same bits
// from every instruction set, whether or not the weight is packed, at any place in a batch.
static void products_in_bf16(void **state)
{
    (void)state;
    static const int32_t size[] = {1, 2, 3, 8, 12, 13, 16, 17, 31, 32, 33, 48, 65, 300, 529};
    struct kernel_linear l = {.w = {.dtype = KERNEL_F32}};
    if (!dev[ROW].row->bf16)
        return; // dev_math refuses it
    for (int round = 0; round < 30; round++) {
        int32_t m = size[rng_below(&rng, 13)], n = size[rng_below(&rng, 15)];
        int32_t k = size[rng_below(&rng, 15)];
        float *a = random_values((size_t)(m * k), 1), *b = random_values((size_t)(n * k), 1);
        struct twin x = both(ACTS, a, (size_t)(m * k)), w = both(FLOATS, b, (size_t)(n * k));
        struct twin y = both(ACTS, NULL, (size_t)(m * n)), p = both(ACTS, NULL, (size_t)(m * n));
        float *want = host((size_t)(m * n) * sizeof *want);
        for (int32_t i = 0; i < m; i++)
            for (int32_t j = 0; j < n; j++) {
                float sum = 0;
                for (int32_t q = 0; q < k; q += 2) {
                    if (q + 1 < k)
                        sum = fmaf(to_bf16(a[i * k + q + 1]), to_bf16(b[j * k + q + 1]), sum);
                    sum = fmaf(to_bf16(a[i * k + q]), to_bf16(b[j * k + q]), sum);
                }
                want[i * n + j] = sum;
            }
        l.w.rows = n;
        l.w.cols = l.w.ld = k;
        l.w.packed = NULL;
        dev[ROW].lane[0].cx.math = KERNEL_MATH_BF16;
        RUN_ROW(linear_fwd, with(&l, w), NULL, A(x), k, m, NULL, A(y), n, NULL, 0);
        assert_memory_equal(values(y, ROW), want, y.n * sizeof(float));
        float *packed = host(kernel_packed_floats(n, k) * sizeof *packed);
        kernel_pack_weight(&l.w, packed);
        l.w.packed = packed;
        RUN_ROW(linear_fwd, &l, NULL, A(x), k, m, NULL, A(p), n, NULL, 0);
        assert_memory_equal(values(p, ROW), want, p.n * sizeof(float));
        dev[ROW].lane[0].cx.math = KERNEL_MATH_F32;
    }
}

static float to_tf32(float x)
{
    uint32_t u = f32_bits(x);
    return f32_from_bits((u + 0xfff + (u >> 13 & 1)) & ~0x1fffu);
}

// A device's units for it: both sides rounded, sums in any order, forward and back.
static void products_by_tensor_units(void **state)
{
    (void)state;
    enum { M = 13, N = 35, K = 70 };
    struct kernel_linear l = {.w = {.rows = N, .cols = K, .ld = K}};
    for (int32_t math = KERNEL_MATH_BF16; math <= KERNEL_MATH_TF32 && dev[ROW].row->tensor;
         math++) {
        struct err err;
        assert_int_equal(dev_math(&dev[ROW], math, &err), 0);
        float *a = random_values(M * K, 1), *b = random_values(N * K, 1);
        float *d = random_values(M * N, 1), *own[] = {a, b, d};
        const size_t n[] = {M * K, N * K, M * N};
        struct twin x = both(ACTS, a, M * K), w = both(FLOATS, b, N * K), dy = both(ACTS, d, M * N);
        struct twin y = both(ACTS, NULL, M * N), dx = both(ACTS, NULL, M * K);
        RUN_ROW(linear_fwd, with(&l, w), NULL, A(x), K, M, NULL, A(y), N, NULL, 0);
        RUN_ROW(linear_bwd, with(&l, w), NULL, A(dy), N, A(x), K, NULL, 0, M, NULL, A(dx), K, NULL,
                NULL);
        for (int k = 0; k < 3; k++)
            for (size_t i = 0; i < n[k]; i++)
                own[k][i] = math == KERNEL_MATH_TF32   ? to_tf32(own[k][i])
                            : math == KERNEL_MATH_BF16 ? to_bf16(own[k][i])
                                                       : f16_to_f32(f16_from_f32(own[k][i]));
        const double most = math == KERNEL_MATH_TF32   ? 3e-6 // of the result alone
                            : math == KERNEL_MATH_BF16 ? 0x1p-8
                                                       : 0x1p-11;
        struct twin rx = both(ACTS, a, M * K), rw = both(FLOATS, b, N * K);
        struct twin rdy = both(ACTS, d, M * N);
        struct twin ry = both(ACTS, NULL, M * N), rdx = both(ACTS, NULL, M * K);
        RUN_REF(linear_fwd, with(&l, rw), NULL, A(rx), K, M, NULL, A(ry), N, NULL, 0);
        RUN_REF(linear_bwd, with(&l, rw), NULL, A(rdy), N, A(rx), K, NULL, 0, M, NULL, A(rdx), K,
                NULL, NULL);
        CLOSE_VALUES((const float *)values(y, ROW), (const float *)values(ry, REF), y.n, most);
        CLOSE_VALUES((const float *)values(dx, ROW), (const float *)values(rdx, REF), dx.n, most);
        assert_int_equal(dev_math(&dev[ROW], math_now, &err), 0);
        dev[ROW].lane[0].cx.grad_scale = 1;
    }
}

static void rounding_to_bf16(void **state)
{
    (void)state;
    static const uint32_t bits[] = {0,          0x80000000, 0x3f800000, 0x3f808000, 0x3f808001,
                                    0x3f818000, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001,
                                    0x7fffffff, 0xbf80ffff, 0x00800000, 0x477fff00};
    struct kernel_linear l = {.w = {.rows = 1, .cols = 1, .ld = 1}};
    if (!dev[ROW].row->bf16)
        return; // dev_math refuses it
    dev[ROW].lane[0].cx.math = KERNEL_MATH_BF16;
    for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
        float x, one = 1;
        memcpy(&x, &bits[i], sizeof x);
        struct twin a = both(ACTS, &x, 1), w = both(FLOATS, &one, 1), y = both(ACTS, NULL, 1);
        RUN_ROW(linear_fwd, with(&l, w), NULL, A(a), 1, 1, NULL, A(y), 1, NULL, 0);
        float got = *(float *)values(y, ROW), want = to_bf16(x);
        if (!(got == want || (isnan(got) && isnan(want))))
            fail_msg("%08x becomes %a, not %a", bits[i], (double)got, (double)want);
    }
    dev[ROW].lane[0].cx.math = KERNEL_MATH_F32;
}

// A weight held as blocks gives what its values in fp32 give, to the bit; its rows lie in three
// parts of different types.
static void blocks_are_decoded_on_the_way(void **state)
{
    (void)state;
    enum { M = 37, K = 544, PARTS = 3, N = 40 + 70 + 31, TOKENS = 5 };
    static const struct {
        int32_t id, rows;
    } part[PARTS] = {{BLOCK_Q4_1, 40}, {BLOCK_Q8_0, 70}, {BLOCK_Q4_1, 31}};
    static const int32_t token[TOKENS] = {0, 39, 40, 110, 140};
    struct block_rows rows[PARTS];
    float *plain = host((size_t)N * K * sizeof *plain), *to = plain;
    if (!dev[ROW].row->host)
        return; // blocks are held where the host is the device
    for (int i = 0; i < PARTS; i++) {
        rows[i] = (struct block_rows){block_find(part[i].id), NULL, part[i].rows, K};
        size_t blocks = (size_t)part[i].rows * K / 32;
        uint8_t *bytes = host(blocks * (size_t)rows[i].type->bytes);
        block_encode(rows[i].type, random_values(blocks * 32, 1), blocks, bytes);
        block_decode(rows[i].type, bytes, blocks, to);
        rows[i].at = bytes;
        to += blocks * 32;
    }
    struct kernel_linear l[2] = {{.w = {.w = plain, .rows = N, .cols = K, .ld = K}},
                                 {.w = {.blocks = rows, .rows = N, .cols = K, .ld = K}}};
    struct twin x = random_acts(M * K, 1), dy = random_acts(M * N, 1);
    struct twin tokens = both(INTS, token, TOKENS), weight = random_floats(TOKENS, 1);
    struct twin out[2][4];
    for (int i = 0; i < 2; i++) {
        struct twin *o = out[i];
        o[0] = both(ACTS, NULL, M * N);
        o[1] = both(ACTS, NULL, M * K);
        o[2] = both(ACTS, NULL, TOKENS * K);
        o[3] = both(ACTS, NULL, TOKENS * K);
        RUN_ROW(linear_fwd, &l[i], NULL, A(x), K, M, NULL, A(o[0]), N, NULL, 0);
        RUN_ROW(linear_bwd, &l[i], NULL, A(dy), N, A(x), K, NULL, 0, M, NULL, A(o[1]), K, NULL,
                NULL);
        RUN_ROW(embed_fwd, &l[i].w, I(tokens), TOKENS, A(o[2]), K);
        RUN_ROW(ce_head, &l[i].w, A(x), K, TOKENS, I(tokens), F(weight), NULL, NULL, A(o[3]), K,
                NULL);
    }
    for (int k = 0; k < 4; k++)
        assert_memory_equal(values(out[0][k], ROW), values(out[1][k], ROW),
                            out[0][k].n * sizeof(float));
    for (int32_t n = 0; n < N; n += 13)
        assert_true(kernel_weight_value(&l[1].w, n, n) == plain[n * K + n]);
}

// linear with adapters.

struct lin { // q, k, v-like: three outputs of one input, the second without an adapter when sparse
    struct kernel_linear l;
    struct twin w, adapter, x, y0, r;
    int32_t m;
};

static struct lin make_linear(int32_t rank, int32_t cols, bool sparse)
{
    struct lin t = {.m = 29};
    int32_t rows[3] = {40, 24, 24}, row0 = 0, n = 88;
    t.w = random_floats((size_t)(n * cols), 0.2);
    t.l = (struct kernel_linear){.w = {.rows = n, .cols = cols, .ld = cols}, .scale = 0.7f};
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
    t.adapter = random_floats(at, 0.3);
    t.x = random_acts((size_t)(t.m * cols), 1);
    t.y0 = random_acts((size_t)(t.m * n), 1);
    t.r = random_acts((size_t)(t.m * n), 1);
    return t;
}

static double linear_loss(struct lin *t)
{
    static float y[4096], u[4096];
    const int32_t n = t->l.w.rows, cols = t->l.w.cols;
    side = REF;
    dev[REF].ops->linear_fwd(CX, with(&t->l, t->w), F(t->adapter), A(t->x), cols, t->m, A(t->y0),
                             (kernel_act *)(void *)y, n, (kernel_act *)(void *)u, t->l.ranks);
    return dot(y, t->r.on[REF], (size_t)(t->m * n));
}

static void check_linear(int32_t rank, int32_t cols, bool sparse)
{
    struct lin t = make_linear(rank, cols, sparse);
    struct kernel_linear *l = &t.l;
    int32_t n = l->w.rows, m = t.m, ranks = l->ranks;
    struct twin y = both(ACTS, NULL, t.y0.n), u = both(ACTS, NULL, (size_t)(m * ranks));
    RUN(linear_fwd, with(l, t.w), F(t.adapter), A(t.x), cols, m, A(t.y0), A(y), n, A(u), ranks);
    CLOSE(y, 3e-6);
    CLOSE(u, 3e-6);
    struct twin dx = both(ACTS, NULL, t.x.n), dx0 = random_acts(t.x.n, 1);
    struct twin grad = random_floats(t.adapter.n, 1), grad0 = zero_floats(t.adapter.n);
    struct twin dw = zero_floats(t.w.n);
    RUN(linear_bwd, with(l, t.w), F(t.adapter), A(t.r), n, A(t.x), cols, A(u), ranks, m, A(dx0),
        A(dx), cols, F(grad), F(dw));
    CLOSE(dx, 3e-6);
    CLOSE(grad, 3e-6);
    CLOSE(dw, 3e-6);
    RUN_ROW(linear_bwd, with(l, t.w), F(t.adapter), A(t.r), n, A(t.x), cols, A(u), ranks, m, NULL,
            A(dx), cols, F(grad0), NULL);
    SLOPE(t.x, values(dx, ROW), linear_loss(&t));
    SLOPE(t.adapter, values(grad0, ROW), linear_loss(&t));
    SLOPE(t.w, values(dw, ROW), linear_loss(&t));
}

static void linear_with_adapters(void **state)
{
    (void)state;
    check_linear(8, 40, false);
    check_linear(8, 41, true);
    check_linear(16, 33, false);
    check_linear(3, 46, true);
}

// norm, rope, swiglu.

static double weighted_norm(struct twin x, struct twin w, int32_t m, int32_t n, struct twin r)
{
    static float y[4096];
    RUN_REF(rmsnorm_fwd, A(x), n, F(w), m, n, 1e-5f, (kernel_act *)(void *)y, n, NULL);
    return dot(y, r.on[REF], x.n);
}

static void rmsnorm(void **state)
{
    (void)state;
    for (int32_t n = 16; n <= 43; n += 27) {
        enum { M = 9 };
        size_t all = (size_t)(M * n);
        struct twin x = random_acts(all, 2), w = random_floats((size_t)n, 1);
        struct twin r = random_acts(all, 1), y = both(ACTS, NULL, all);
        struct twin rstd = both(FLOATS, NULL, M), dx0 = both(ACTS, host(all * 4), all);
        RUN(rmsnorm_fwd, A(x), n, F(w), M, n, 1e-5f, A(y), n, F(rstd));
        CLOSE(y, 1e-6);
        CLOSE(rstd, 1e-6);
        struct twin dx = random_acts(all, 1), dw = zero_floats((size_t)n);
        RUN(rmsnorm_bwd, A(r), n, A(x), n, F(w), F(rstd), M, n, A(dx), n, F(dw));
        CLOSE(dx, 2e-6);
        CLOSE(dw, 2e-6);
        RUN_ROW(rmsnorm_bwd, A(r), n, A(x), n, F(w), F(rstd), M, n, A(dx0), n, NULL);
        SLOPE(x, values(dx0, ROW), weighted_norm(x, w, M, n, r));
        SLOPE(w, values(dw, ROW), weighted_norm(x, w, M, n, r));
    }
}

static void rope_turns_and_turns_back(void **state)
{
    (void)state;
    enum { M = 5, HEADS = 3, DIM = 24, LD = HEADS * DIM + 7, POSITIONS = 9 };
    static const int32_t at[M] = {0, 3, 8, 1, 1};
    float angle_cos[POSITIONS * DIM / 2], angle_sin[POSITIONS * DIM / 2];
    for (int i = 0; i < POSITIONS * DIM / 2; i++) {
        float angle = (float)(i / (DIM / 2)) * (0.2f + 0.1f * (float)(i % (DIM / 2)));
        angle_cos[i] = cosf(angle);
        angle_sin[i] = sinf(angle);
    }
    struct twin pos = both(INTS, at, M), cosine = both(FLOATS, angle_cos, POSITIONS * DIM / 2);
    struct twin sine = both(FLOATS, angle_sin, POSITIONS * DIM / 2);
    for (int style = KERNEL_ROPE_HALF; style <= KERNEL_ROPE_PAIR; style++) {
        const float *was = random_values(M * LD, 1);
        struct twin x = both(ACTS, was, M * LD);
        RUN(rope, (&(struct kernel_rope){F(cosine), F(sine), HEADS, DIM, style, 1}), I(pos), M,
            A(x), LD);
        CLOSE(x, 1e-6);
        // Two rows of the same content one position apart keep their length; position 0 is
        // untouched.
        const float *got = values(x, ROW);
        CLOSE_VALUES(got, was, HEADS * DIM, bound(0));
        assert_true(fabs(dot(got + LD, got + LD, DIM) - dot(was + LD, was + LD, DIM)) <
                    bound(1e-4) * DIM);
        assert_true(distance(got + LD, was + LD, DIM) > 0.01);
        // sign -1: the transpose, which is the inverse
        RUN(rope, (&(struct kernel_rope){F(cosine), F(sine), HEADS, DIM, style, -1}), I(pos), M,
            A(x), LD);
        got = values(x, ROW);
        CLOSE_VALUES(got, was, M * LD, bound(1e-6));
    }
}

static double weighted_swiglu(struct twin gu, int32_t m, int32_t n, struct twin r)
{
    static float h[1024];
    RUN_REF(swiglu_fwd, A(gu), 2 * n, m, n, (kernel_act *)(void *)h, n);
    return dot(h, r.on[REF], r.n);
}

static void swiglu(void **state)
{
    (void)state;
    enum { M = 7, N = 27 };
    float *x = random_values(M * 2 * N, 2);
    x[3] = 100.0f; // saturated both ways
    x[4] = -100.0f;
    struct twin gu = both(ACTS, x, M * 2 * N), r = random_acts(M * N, 1);
    struct twin h = both(ACTS, NULL, M * N), d = both(ACTS, NULL, M * 2 * N);
    RUN(swiglu_fwd, A(gu), 2 * N, M, N, A(h), N);
    CLOSE(h, 1e-6);
    RUN(swiglu_bwd, A(gu), 2 * N, A(r), N, M, N, A(d));
    CLOSE(d, 1e-6);
    SLOPE(gu, values(d, ROW), weighted_swiglu(gu, M, N, r));
    RUN_ROW(swiglu_bwd, A(gu), 2 * N, A(r), N, M, N, A(gu)); // in place
    assert_memory_equal(values(gu, ROW), values(d, ROW), d.n * sizeof(float));
}

static double weighted_geglu(struct twin gu, int32_t m, int32_t n, struct twin r)
{
    static float h[4096];
    RUN_REF(geglu_fwd, A(gu), 2 * n, m, n, (kernel_act *)(void *)h, n);
    return dot(h, r.on[REF], r.n);
}

static void geglu(void **state)
{
    (void)state;
    enum { M = 7, N = 27 };
    float *x = random_values(M * 2 * N, 2);
    x[3] = 100.0f; // saturated both ways
    x[4] = -100.0f;
    struct twin gu = both(ACTS, x, M * 2 * N), r = random_acts(M * N, 1);
    struct twin h = both(ACTS, NULL, M * N), d = both(ACTS, NULL, M * 2 * N);
    RUN(geglu_fwd, A(gu), 2 * N, M, N, A(h), N);
    CLOSE(h, 1e-6);
    RUN(geglu_bwd, A(gu), 2 * N, A(r), N, M, N, A(d));
    CLOSE(d, 1e-6);
    SLOPE(gu, values(d, ROW), weighted_geglu(gu, M, N, r));
    RUN_ROW(geglu_bwd, A(gu), 2 * N, A(r), N, M, N, A(gu)); // in place
    assert_memory_equal(values(gu, ROW), values(d, ROW), d.n * sizeof(float));
}

static double weighted_heads(struct twin x, struct twin w, const struct kernel_heads *h, int32_t m,
                             int32_t ld, struct twin r)
{
    static float y[4096];
    RUN_REF(head_norm_fwd, h, F(w), A(x), ld, m, (kernel_act *)(void *)y, ld);
    return dot(y, r.on[REF], x.n);
}

static void heads_are_normalised(void **state)
{
    (void)state;
    enum { M = 7 };
    for (int32_t dim = 16; dim <= 22; dim += 6) {
        struct kernel_heads h = {.heads = 4, .kv_heads = 2, .head_dim = dim, .eps = 1e-5f};
        int32_t ld = (h.heads + 2 * h.kv_heads) * dim;
        struct twin x = random_acts((size_t)(M * ld), 2), w = random_floats(2 * (size_t)dim, 1);
        struct twin y = both(ACTS, NULL, x.n), r = random_acts(x.n, 1);
        struct twin d = both(ACTS, values(r, REF), x.n);
        RUN(head_norm_fwd, &h, F(w), A(x), ld, M, A(y), ld);
        CLOSE(y, 1e-6);
        RUN(head_norm_bwd, &h, F(w), A(x), ld, M, A(d), ld);
        CLOSE(d, 2e-6);
        SLOPE(x, values(d, ROW), weighted_heads(x, w, &h, M, ld, r));
    }
}

static void rows_are_moved_and_scaled(void **state)
{
    (void)state;
    enum { M = 5, N = 21, LD = 24 };
    struct twin x = random_acts(M * LD, 1), b = random_floats(N, 1), w = random_floats(N, 1);
    struct twin y0 = random_acts(M * LD, 1), y = both(ACTS, values(y0, REF), M * LD);
    struct twin rstd = both(FLOATS, NULL, M);
    RUN(bias_rows, F(b), M, N, A(x), LD);
    CLOSE(x, 1e-7);
    RUN(scale_rows, 3.0f, M, N, A(x), LD);
    CLOSE(x, 1e-7);
    RUN(norm_sum_fwd, A(x), LD, F(w), M, N, 1e-5f, A(y0), A(y), LD, F(rstd));
    CLOSE(y, 1e-6);
    CLOSE(rstd, 1e-6);
}

// attention.

struct att {
    struct kernel_attn a;
    struct kernel_seqs s;
    struct twin start, log_size, qkv, r;
    bool sizes;
    int32_t ld, ldo;
};

static const struct kernel_attn *attn(struct att *t)
{
    t->a.log_size = t->sizes ? F(t->log_size) : NULL;
    return &t->a;
}

static const struct kernel_seqs *seqs(struct att *t)
{
    t->s.start = I(t->start);
    return &t->s;
}

static double weighted_attention(struct att *t)
{
    static float out[64 * 200], lse[4 * 200];
    RUN_REF(attention_fwd, attn(t), seqs(t), A(t->qkv), t->ld, (kernel_act *)(void *)out, t->ldo,
            lse, NULL);
    return dot(out, t->r.on[REF], t->r.n);
}

static struct att make_attention(int32_t dim, const int32_t *start, int32_t n_seqs, bool sizes)
{
    int32_t m = start[n_seqs];
    struct att t = {.a = {.heads = 4, .kv_heads = 2, .head_dim = dim},
                    .s = {.n = n_seqs, .rows = m},
                    .sizes = sizes,
                    .ld = 8 * dim,
                    .ldo = 4 * dim};
    float *log_size = host((size_t)m * sizeof *log_size);
    t.a.scale = 1.0f / sqrtf((float)dim);
    for (int32_t q = 0; q < n_seqs; q++)
        if (start[q + 1] - start[q] > t.s.longest)
            t.s.longest = start[q + 1] - start[q];
    for (int32_t i = 0; i < m; i++)
        log_size[i] = logf(1 + (float)rng_below(&rng, 5));
    t.start = both(INTS, start, (size_t)n_seqs + 1);
    t.log_size = both(FLOATS, log_size, (size_t)m);
    t.qkv = random_acts((size_t)(m * t.ld), 1);
    t.r = random_acts((size_t)(m * t.ldo), 1);
    return t;
}

// Lists of one cache.
struct one_cache {
    struct twin k, v, list_k, list_v, list_size, n;
    bool sizes;
    struct kernel_cache c;
};

// log_size: of its rows, or NULL.
static struct one_cache make_cache(size_t n, size_t skip, const struct twin *log_size, int32_t from)
{
    struct one_cache t = {.k = both(ACTS, NULL, skip + n), .v = both(ACTS, NULL, skip + n)};
    const int32_t none = 0;
    t.list_k = both(BYTES, NULL, sizeof t.k.on[0]);
    t.list_v = both(BYTES, NULL, sizeof t.v.on[0]);
    t.list_size = both(BYTES, NULL, sizeof(float *));
    t.sizes = log_size != NULL;
    for (int s = 0; s < SIDES; s++) {
        dev_put(&dev[s], t.list_k.on[s], &t.k.on[s], sizeof t.k.on[s]);
        dev_put(&dev[s], t.list_v.on[s], &t.v.on[s], sizeof t.v.on[s]);
        const float *size = log_size ? (const float *)log_size->on[s] + from : NULL;
        dev_put(&dev[s], t.list_size.on[s], &size, sizeof size);
    }
    t.n = both(INTS, &none, 1);
    t.c.skip = skip;
    return t;
}

static const struct kernel_cache *cache(struct one_cache *t)
{
    t->c.k = t->list_k.on[side];
    t->c.v = t->list_v.on[side];
    t->c.log_size = t->sizes ? t->list_size.on[side] : NULL;
    t->c.n = I(t->n);
    return &t->c;
}

// Token by token through a cache: the same rows as all at once. The first half goes there at once.
static void check_cache(struct att *t, struct twin out, int32_t from, int32_t len)
{
    size_t row = (size_t)(2 * t->a.head_dim);
    const struct twin *sizes = t->sizes ? &t->log_size : NULL;
    struct one_cache step = make_cache((size_t)len * row, 5, sizes, from),
                     half = make_cache((size_t)len * row, 0, NULL, 0);
    struct twin one = both(ACTS, NULL, (size_t)t->ldo);
    const float *want = values(out, REF);
    for (int32_t i = 0; i < len; i++) {
        for (int s = 0; s < SIDES; s++)
            dev_put(&dev[s], step.n.on[s], &i, sizeof i);
        RUN(attention_step, attn(t), cache(&step), 1,
            kernel_act_at(CX, A(t->qkv), (size_t)((from + i) * t->ld)), t->ld, A(one), t->ldo);
        const float *got = values(one, ROW);
        CLOSE_VALUES(got, want + (from + i) * t->ldo, (size_t)t->ldo, bound(5e-6));
    }
    const int32_t start[] = {0, len / 2};
    struct twin starts = both(INTS, start, 2);
    RUN(cache_rows, attn(t),
        (&(struct kernel_seqs){.n = 1, .rows = len / 2, .longest = len / 2, .start = I(starts)}),
        kernel_act_at(CX, A(t->qkv), (size_t)(from * t->ld)), t->ld, cache(&half));
    for (int s = 0; s < SIDES; s++) {
        const float *a = values(half.k, s), *b = values(step.k, s);
        assert_memory_equal(a, b + 5, (size_t)(len / 2) * row * sizeof *a);
        a = values(half.v, s);
        b = values(step.v, s);
        assert_memory_equal(a, b + 5, (size_t)(len / 2) * row * sizeof *a);
    }
}

static void check_attention(int32_t dim, const int32_t *start, int32_t n_seqs, bool sizes,
                            int32_t window)
{
    struct att t = make_attention(dim, start, n_seqs, sizes);
    t.a.window = window;
    int32_t m = t.s.rows, ld = t.ld, ldo = t.ldo;
    struct twin out = both(ACTS, NULL, t.r.n), lse = both(FLOATS, NULL, (size_t)(m * 4));
    struct twin got = zero_floats((size_t)m), d = both(ACTS, NULL, t.qkv.n);
    RUN(attention_fwd, attn(&t), seqs(&t), A(t.qkv), ld, A(out), ldo, F(lse), F(got));
    CLOSE(out, 3e-6);
    CLOSE(lse, 3e-6);
    CLOSE(got, 3e-6);
    double total = 0;
    const float *received = values(got, ROW);
    for (int32_t i = 0; i < m; i++)
        total += (double)received[i];
    assert_true(fabs(total - 4.0 * m) < bound(1e-3) * m); // every query gives 1 a head
    RUN(attention_bwd, attn(&t), seqs(&t), A(t.qkv), ld, A(out), A(t.r), ldo, F(lse), A(d));
    CLOSE(d, 1e-5);
    if (m < 64)
        SLOPE(t.qkv, values(d, ROW), weighted_attention(&t));
    // Step by step only short ones where a step is slow.
    for (int32_t q = 0; q < n_seqs; q++)
        if (dev[ROW].row->host || start[q + 1] - start[q] < 64)
            check_cache(&t, out, start[q], start[q + 1] - start[q]);
}

static void attention(void **state)
{
    (void)state;
    // Long enough to leave out a tile of keys that no window reaches; without a window, to have
    // two.
    static const int32_t whole[] = {0, 17, 90, 99}, windowed[] = {0, 17, 150, 199};
    for (int sizes = 0; sizes < 2; sizes++)
        for (int32_t window = 0; window <= 20; window += 20) {
            if (!dev[ROW].row->host && sizes != (window > 0))
                continue; // it takes its time
            check_attention(24, (const int32_t[]){0, 33, 34, 51}, 3, sizes, window);
            check_attention(7, (const int32_t[]){0, 20}, 1, sizes, window / 10);
            check_attention(16, dev[ROW].row->host || window ? windowed : whole, 3, sizes, window);
            check_attention(48, (const int32_t[]){0, 5}, 1, sizes, window / 20);
        }
}

// A key of size n is n equal keys.
static void sizes_count_keys_as_often(void **state)
{
    (void)state;
    enum { DIM = 6, LD = 3 * DIM, N = 5 };
    const int32_t few[] = {0, N}, all[] = {0, N + 2}, from[N + 2] = {0, 1, 1, 1, 2, 3, 4};
    const float sizes[N] = {0, logf(3), 0, 0, 0};
    float *rows = random_values(N * LD, 1), *copies = host((N + 2) * LD * sizeof *copies);
    for (int i = 0; i < N + 2; i++)
        memcpy(copies + i * LD, rows + from[i] * LD, LD * sizeof *rows);
    struct twin starts_few = both(INTS, few, 2), starts_all = both(INTS, all, 2);
    struct twin log_size = both(FLOATS, sizes, N), lse = both(FLOATS, NULL, N + 2);
    struct twin qkv = both(ACTS, rows, N * LD), every = both(ACTS, copies, (N + 2) * LD);
    struct twin out = both(ACTS, NULL, N * DIM), want = both(ACTS, NULL, (N + 2) * DIM);
    struct kernel_attn a = {.heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 0.4f};
    RUN(attention_fwd, &a, (&(struct kernel_seqs){1, N + 2, N + 2, I(starts_all)}), A(every), LD,
        A(want), DIM, F(lse), NULL);
    RUN(attention_fwd, (a.log_size = F(log_size), &a),
        (&(struct kernel_seqs){1, N, N, I(starts_few)}), A(qkv), LD, A(out), DIM, F(lse), NULL);
    const float *got = values(out, ROW), *copied = values(want, ROW);
    CLOSE_VALUES(got + 2 * DIM, copied + 4 * DIM, 3 * DIM, bound(3e-6));
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
    float rows[N][4];
    for (int i = 0; i < N; i++) {
        double t = degrees[i] * 3.14159265358979 / 180, size = 1 + i % 3; // length must not matter
        rows[i][0] = (float)(0.25 * size * cos(t));
        rows[i][1] = (float)(-0.5 * size * sin(t));
        rows[i][2] = (float)(0.75 * size * cos(t));
        rows[i][3] = (float)(1.5 * size * sin(t));
    }
    struct twin key = both(ACTS, rows, N * 4), starts = both(INTS, start, 3);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct kernel_merge g = {2, 2, cases[i].window, cases[i].ratio};
        struct twin free_rows = both(INTS, cases[i].free, 2), partner = both(INTS, NULL, N);
        RUN(merge_match, &g, (&(struct kernel_seqs){2, N, FIRST, I(starts)}), I(free_rows), A(key),
            4, I(partner));
        for (int s = 0; s < SIDES; s++) {
            const int32_t *got = values(partner, s);
            for (int r = 0; r < N; r++)
                if (got[r] != cases[i].want[r])
                    fail_msg("case %zu, %s: row %d goes to %d, expected %d", i, dev[s].row->name, r,
                             got[r], cases[i].want[r]);
        }
    }
}

static void merging(void **state)
{
    (void)state;
    enum { M = 75, DIM = 20, HEADS = 3, LD = DIM * HEADS + 5, COLS = 37, LDX = 40 };
    static const int32_t start[] = {0, 40, 41, M}, free_rows[] = {40, 1, 25};
    struct kernel_merge g = {HEADS, DIM, 6, 0.3};
    struct twin starts = both(INTS, start, 4), frees = both(INTS, free_rows, 3);
    struct twin key = random_acts(M * LD, 1), x = random_acts(M * LDX, 1);
    struct twin partner = both(INTS, NULL, M);
    int32_t into[M], rows = 0;
    float share[M];
    RUN(merge_match, &g, (&(struct kernel_seqs){3, M, 40, I(starts)}), I(frees), A(key), LD,
        I(partner));
    SAME(partner);
    const int32_t *goes = values(partner, ROW);
    for (int32_t i = 0; i < M; i++) {
        into[i] = rows;
        rows += goes[i] == i;
        share[i] = (float)rng_unit(&rng);
    }
    assert_int_equal(rows, M - 12 - 7);
    for (int32_t i = M - 1; i >= 0; i--)
        into[i] = goes[i] == i ? into[i] : into[goes[i]];
    struct twin places = both(INTS, into, M), shares = both(FLOATS, share, M);
    struct twin y = random_acts((size_t)(rows * LDX), 1), dx = random_acts(M * LDX, 1);
    RUN(merge_rows, A(x), LDX, I(places), F(shares), M, COLS, A(y), LDX, rows);
    CLOSE(y, 1e-6);
    RUN(merge_rows_bwd, A(y), LDX, I(places), F(shares), M, COLS, A(dx), LDX);
    CLOSE(dx, 1e-6);
    double forward = 0, backward = 0; // <y, P x> = <P' y, x>
    const float *py = values(y, ROW), *pdx = values(dx, ROW), *px = values(x, ROW);
    for (int32_t i = 0; i < rows; i++)
        forward += dot(py + i * LDX, py + i * LDX, COLS);
    for (int32_t i = 0; i < M; i++)
        backward += dot(pdx + i * LDX, px + i * LDX, COLS);
    assert_true(fabs(forward - backward) < bound(1e-4) * forward);
}

// head.

static const struct kernel_weight *weight_of(struct twin w, int32_t rows, int32_t cols)
{
    static struct kernel_weight k;
    k = (struct kernel_weight){.w = w.on[side], .rows = rows, .cols = cols, .ld = cols};
    return &k;
}

static double weighted_ce(struct twin w, struct twin x, int32_t vocab, int32_t cols, int32_t m,
                          struct twin target, struct twin weight)
{
    static float loss[64];
    RUN_REF(ce_head, weight_of(w, vocab, cols), A(x), cols, m, I(target), F(weight), loss, NULL,
            NULL, 0, NULL);
    return dot(loss, weight.on[REF], (size_t)m);
}

static void check_ce(int32_t vocab, int32_t cols, int32_t m, bool slopes)
{
    size_t nx = (size_t)(m * cols), nw = (size_t)(vocab * cols), nm = (size_t)m;
    struct twin x = random_acts(nx, 1), w = random_floats(nw, 0.7), weight = random_floats(nm, 1);
    int32_t *goal = host(nm * sizeof *goal);
    for (int32_t i = 0; i < m; i++)
        goal[i] = i == 1 ? -1 : (int32_t)rng_below(&rng, (uint32_t)vocab);
    struct twin target = both(INTS, goal, nm), best = both(INTS, NULL, nm);
    struct twin loss = both(FLOATS, NULL, nm), dx = both(ACTS, NULL, nx), dw = zero_floats(nw);
    RUN(ce_head, weight_of(w, vocab, cols), A(x), cols, m, I(target), F(weight), F(loss), I(best),
        A(dx), cols, F(dw));
    CLOSE(loss, 2e-6);
    CLOSE(dx, 5e-6);
    CLOSE(dw, 5e-6);
    SAME(best);
    const float *got = values(loss, ROW), *whole = values(dx, ROW);
    assert_true(got[1] == 0 && dot(whole + cols, whole + cols, (size_t)cols) == 0);
    struct twin alone = both(ACTS, NULL, nx);
    for (int32_t i = 0; i < m; i++) {
        size_t at = (size_t)(i * cols);
        RUN_ROW(ce_head, weight_of(w, vocab, cols), kernel_act_at(CX, A(x), at), cols, 1,
                I(target) + i, F(weight) + i, NULL, NULL, kernel_act_at(CX, A(alone), at), cols,
                NULL);
    }
    const float *each = values(alone, ROW);
    if (dev[ROW].row->rows_alone)
        assert_memory_equal(each, whole, nx * 4);
    else
        CLOSE_VALUES(each, whole, nx, bound(3e-6));
    if (slopes) {
        SLOPE(x, values(dx, ROW), weighted_ce(w, x, vocab, cols, m, target, weight));
        SLOPE(w, values(dw, ROW), weighted_ce(w, x, vocab, cols, m, target, weight));
    }
}

// A model that diverged still names a word: what is read next is an embedding.
static void check_ce_of_nan(int32_t vocab)
{
    enum { COLS = 19, ROWS = 5 };
    const int32_t goal[ROWS] = {0, -1, 3, -1, 1};
    float *rows = random_values(ROWS * COLS, 1);
    for (int32_t i = 0; i < 3 * COLS; i++) // the last two rows are sound
        rows[i] = i < COLS ? NAN : i < 2 * COLS ? INFINITY : i % 2 ? INFINITY : -INFINITY;
    struct twin x = both(ACTS, rows, ROWS * COLS), w = random_floats((size_t)(vocab * COLS), 0.7);
    struct twin target = both(INTS, goal, ROWS), best = both(INTS, NULL, ROWS);
    RUN(ce_head, weight_of(w, vocab, COLS), A(x), COLS, ROWS, I(target), NULL, NULL, I(best), NULL,
        0, NULL);
    for (int s = 0; s < SIDES; s++) {
        const int32_t *got = values(best, s);
        for (int32_t i = 0; i < ROWS; i++)
            assert_in_range(got[i], 0, vocab - 1);
        assert_int_equal(got[0], 0);
    }
}

static void cross_entropy(void **state)
{
    (void)state;
    for (int32_t vocab = 37; vocab < 2000; vocab += 1300)
        check_ce_of_nan(vocab);
    check_ce(37, 19, 11, true);
    check_ce(800, 32, 5, false);
    check_ce(1500, 17, 6, false); // three tiles of the CPU's
    if (!dev[ROW].row->tensor)
        return;
    check_ce(8192 + 40, 3, 3, false); // two of the GPU's
    size_t *room = &dev[ROW].lane[0].cx.work_floats, whole = *room;
    // And two rows at a time; the head, which is in fp32, is converted where activations are not.
    *room = dev[ROW].act == KERNEL_F32 ? 280 : ((size_t)1 << 22) + 400;
    check_ce(100, 7, 5, false);
    *room = whole;
}

// embedding, rows, optimizers, stored types.

static void embeddings(void **state)
{
    (void)state;
    enum { M = 9, V = 12, C = 21 };
    static const int32_t token[M] = {3, 0, 11, 3, 3, 7, 1, 0, 2};
    const float *table = random_values(V * C, 1);
    struct twin tokens = both(INTS, token, M), x = both(ACTS, NULL, M * C);
    for (int dtype = 0; dtype < KERNEL_DTYPES; dtype++) {
        uint32_t stored[V * C];
        kernel_from_f32(dtype, table, V * C, stored);
        struct twin w = both(BYTES, stored, V * C * kernel_dtype_bytes(dtype));
        struct kernel_weight k = {.dtype = dtype, .rows = V, .cols = C, .ld = C};
        RUN(embed_fwd, (k.w = w.on[side], &k), I(tokens), M, A(x), C);
        CLOSE(x, 0);
        const float *got = values(x, ROW);
        CLOSE_VALUES(got + 2 * C, table + 11 * C, C,
                     bound(dtype == KERNEL_F32   ? 0
                           : dtype == KERNEL_F16 ? 5e-4
                                                 : 4e-3));
    }
    struct twin sq = both(FLOATS, NULL, M), d = zero_floats(V * C);
    RUN(embed_bwd, A(x), C, I(tokens), M, C, F(sq), F(d));
    CLOSE(sq, 1e-6);
    CLOSE(d, 1e-6);
}

static void rows_move(void **state)
{
    (void)state;
    enum { M = 9, C = 21, LD = 24, N = 3 };
    static const int32_t row[N] = {1, 4, 8};
    struct twin x = random_acts(M * LD, 1), rows = both(INTS, row, N);
    struct twin few = both(ACTS, NULL, N * C), wide = both(FLOATS, NULL, N * C);
    struct twin back = both(ACTS, NULL, N * C);
    const float *was = values(x, ROW);
    RUN(gather_rows, A(x), LD, I(rows), N, C, A(few), C);
    SAME(few);
    const float *got = values(few, ROW);
    for (int i = 0; i < N; i++)
        assert_memory_equal(got + i * C, was + row[i] * LD, C * sizeof *got);
    RUN(widen_rows, A(few), C, N, C, F(wide));
    assert_memory_equal(values(wide, ROW), got, N * C * sizeof *got);
    RUN(narrow_rows, F(wide), N, C, A(back), C);
    assert_memory_equal(values(back, ROW), got, N * C * sizeof *got);
    RUN(scatter_rows, A(few), C, I(rows), N, C, A(x), LD, M);
    got = values(x, ROW);
    for (int i = 0, n = 0; i < M; i++) {
        const float zero[C] = {0};
        bool hit = n < N && row[n] == i;
        assert_memory_equal(got + i * LD, hit ? was + row[n] * LD : zero, C * sizeof *got);
        n += hit;
    }
}

// Of N values three stretches are trained, or all.
static void check_optimizer(int kind, bool some)
{
    enum { N = 2571 };
    static const kernel_range trained[] = {{0, 1}, {3, 1500}, {1501, N - 2}};
    struct twin range = both(BYTES, trained, sizeof trained);
    struct twin w = random_floats(N, 1), mean = zero_floats(N), var = zero_floats(N);
    struct twin ema = zero_floats(N), sum = zero_floats(N), average = zero_floats(N);
    const kernel_step first = {.lr = 1e-2f, .steps = 2};
    struct twin step = both(BYTES, &first, sizeof first);
    const struct kernel_optim h = {kind, 0.9, 0.99, 1e-8, 0.1, 0.9, 2};
    const float *was = values(w, ROW);
    for (int i = 1; i <= 5; i++) {
        float *g = random_values(N, i == 2 ? 1e-3 : 0.1);
        g[7] = 0;
        struct twin grad = both(FLOATS, g, N);
#define RANGES (&(struct kernel_ranges){some ? 3 : 0, some ? range.on[side] : NULL})
#define KEPT   (&(struct kernel_fisher){F(ema), F(sum), F(average), 0.9f})
        RUN(sum_squares, RANGES, F(grad), N, step.on[side]);
        RUN(next_step, &h, step.on[side]);
        const kernel_step *a = values(step, ROW), *b = values(step, REF);
        assert_true(fabs(a->norm - b->norm) < 1e-6 * b->norm && a->steps == 2 + i);
        assert_true(i == 2 ? a->scale == 1 : fabs((double)a->scale * a->norm - 2) < 1e-5);
        assert_true(a->correct1 == b->correct1 && a->correct2 == b->correct2);
        for (size_t from = 0; from < N; from += 1000)
            RUN(update, &h, step.on[side], RANGES, from, N - from < 1000 ? N - from : 1000, F(w),
                F(mean), F(var), F(grad), KEPT);
#undef RANGES
#undef KEPT
    }
    struct twin all[] = {w, mean, var, ema, sum, average};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        CLOSE(all[i], 3e-6);
    const float *now = values(w, ROW), *squares = values(sum, ROW);
    for (size_t i = 0; i < N; i++) {
        bool still = some && (i == 1 || i == 2 || i == 1500 || i >= N - 2);
        assert_true(still ? now[i] == was[i] && squares[i] == 0 : now[i] != was[i]);
    }
}

static void optimizers(void **state)
{
    (void)state;
    enum { N = 2571 };
    for (int way = 0; way < 4; way++)
        check_optimizer(way & 1 ? KERNEL_SGD : KERNEL_ADAMW, way & 2);
    struct twin g = random_floats(N, 1), ema = random_floats(N, 1), y = random_floats(N, 1);
    RUN(fisher, (&(struct kernel_fisher){.ema = F(ema), .rho = 0.9f}), F(g), N);
    CLOSE(ema, 3e-6);
    RUN(add, F(g), N, F(y));
    SAME(y);
}

static void halves_widen_exactly(void **state)
{
    (void)state;
    uint16_t *h = host(65536 * 2), *back = host(65536 * 2);
    float *x = host(65536 * sizeof *x);
    for (uint32_t i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (int dtype = KERNEL_BF16; dtype <= KERNEL_F16; dtype++) {
        kernel_to_f32(dtype, h, 65536, x);
        kernel_from_f32(dtype, x, 65536, back);
        for (uint32_t i = 0; i < 65536; i++)
            assert_true(isnan(x[i]) || back[i] == h[i]);
    }
}

// By the tests above; an operation that a row does not have was skipped there.
static void every_operation_was_tried(void **state)
{
    (void)state;
    for (int i = 0; i < OPS; i++)
        if (!tried[i])
            fail_msg("no test runs %s on %s", op_name[i], dev[ROW].row->name);
}

// A row of dev_table, with an instruction set or an order of threads.
struct place {
    int32_t kind;
    enum simd_isa isa;
    enum emu_order order;
    uint64_t seed;
    int32_t math;
    char name[40];
};
enum { PLACES = 24 };
static struct place place[PLACES];
static size_t n_places;

// Instruction sets are the CPU's business, and one row of it stands for all.
static void add_places(int32_t kind, const char *order)
{
    static const struct {
        const char *name;
        enum emu_order order;
        uint64_t seed;
        int32_t math;
    } way[] = {{"forward", EMU_FORWARD, 0, KERNEL_MATH_F32},
               {"backward", EMU_BACKWARD, 0, KERNEL_MATH_F32},
               {"seed1", EMU_RANDOM, 1, KERNEL_MATH_F32},
               {"seed2", EMU_RANDOM, 2, KERNEL_MATH_F32},
               {"seed3", EMU_RANDOM, 3, KERNEL_MATH_F32},
               {"bf16", EMU_RANDOM, 1, KERNEL_MATH_BF16},
               {"fp16", EMU_RANDOM, 1, KERNEL_MATH_F16}};
    const char *name = dev_table[kind]->name;
    enum simd_isa best = simd_isa();
    bool emulated = !strcmp(name, "emu"), many = getenv("FSTQ_TEST_LONG") != NULL;
    for (size_t i = 0; i < ARRAY_LEN(way) && emulated; i++) {
        if (order ? strcmp(order, way[i].name) != 0 : way[i].seed > 1 && !many)
            continue;
        struct place *p = &place[n_places++];
        *p = (struct place){kind, best, way[i].order, way[i].seed, way[i].math, ""};
        snprintf(p->name, sizeof p->name, "%s_%s", name, way[i].name);
    }
    for (enum simd_isa isa = kind == 0 ? SIMD_BASE : best; isa <= best && !emulated; isa++) {
        struct place *p = &place[n_places++];
        *p = (struct place){kind, isa, EMU_FORWARD, 0, KERNEL_MATH_F32, ""};
        snprintf(p->name, sizeof p->name, "%s_%s", name, simd_isa_name[isa]);
    }
}

static int begin(void **state)
{
    const struct place *p = *state;
    struct err err;
    simd_limit(p->isa);
    emu_seed(p->seed, p->order);
    rng = rng_stream(7, RNG_TEST, 1, 0, 0);
    if (dev[ROW].row == dev_table[p->kind] && math_now == p->math)
        return 0;
    if (dev[ROW].row)
        dev_close(&dev[ROW]);
    memset(tried, 0, sizeof tried);
    math_now = p->math;
    if (dev_open(&dev[ROW], p->kind, 1, &err) || dev_math(&dev[ROW], math_now, &err))
        return -1;
    dev[ROW].lane[0].cx.grad_scale = 1; // the reference's
    dev_reserve(&dev[ROW], kernel_work_floats(600, 600, 600, 64, 64), 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (int i = 0; i < n_twins; i++)
        for (int s = 0; s < SIDES; s++)
            dev[s].row->free(&dev[s], twins[i].on[s]);
    for (int i = 0; i < n_hosts; i++)
        mem_free(hosts[i]);
    n_twins = n_hosts = 0;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } row[] = {
        {"products_of_all_shapes", products_of_all_shapes},
        {"products_in_bf16", products_in_bf16},
        {"products_by_tensor_units", products_by_tensor_units},
        {"rounding_to_bf16", rounding_to_bf16},
        {"blocks_are_decoded_on_the_way", blocks_are_decoded_on_the_way},
        {"rows_do_not_depend_on_the_batch", rows_do_not_depend_on_the_batch},
        {"linear_with_adapters", linear_with_adapters},
        {"rmsnorm", rmsnorm},
        {"rope_turns_and_turns_back", rope_turns_and_turns_back},
        {"swiglu", swiglu},
        {"geglu", geglu},
        {"heads_are_normalised", heads_are_normalised},
        {"rows_are_moved_and_scaled", rows_are_moved_and_scaled},
        {"attention", attention},
        {"sizes_count_keys_as_often", sizes_count_keys_as_often},
        {"matches_by_hand", matches_by_hand},
        {"merging", merging},
        {"cross_entropy", cross_entropy},
        {"embeddings", embeddings},
        {"rows_move", rows_move},
        {"optimizers", optimizers},
        {"halves_widen_exactly", halves_widen_exactly},
        {"every_operation_was_tried", every_operation_was_tried},
    };
    enum { ROWS = ARRAY_LEN(row) };
    static struct CMUnitTest tests[ROWS * PLACES];
    static char names[ROWS * PLACES][80];
    struct err err;
    for (int32_t k = 0; dev_table[k]; k++) // but the reference itself, and what is not here
        if (k != 1 && dev_usable(k, &err) == 0 &&
            (argc < 2 || !strcmp(argv[1], dev_table[k]->name)))
            add_places(k, argc > 2 ? argv[2] : NULL);
    size_t n = n_places * ROWS;
    for (size_t i = 0; i < n; i++) {
        const struct place *p = &place[i / ROWS];
        snprintf(names[i], sizeof names[i], "%s_%s", p->name, row[i % ROWS].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = row[i % ROWS].run,
                                       .setup_func = begin,
                                       .teardown_func = end,
                                       .initial_state = &place[i / ROWS]};
    }
    if (dev_open(&dev[REF], 1, 1, &err))
        return 1;
    dev_reserve(&dev[REF], kernel_work_floats(600, 600, 600, 64, 64), 0);
    int failed = _cmocka_run_group_tests("kernels", tests, n, NULL, NULL);
    dev_close(&dev[ROW]);
    dev_close(&dev[REF]);
    return failed;
}
