// Kernels of the codecs: C types only, no allocation, no failure. Every instruction set gives the
// same bits; the best of this CPU is taken (simd.h).
#ifndef FSTQ_KERNELS_CODEC_H
#define FSTQ_KERNELS_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Where decoded values go.
struct quant_sink {
    float *to;
    float weight;
    bool add; // to += weight * value, else to = value
};
static inline struct quant_sink quant_sink_at(struct quant_sink s, size_t offset)
{
    s.to += offset;
    return s;
}

// quant.c: floats to codes and back. Messages have no alignment: bytes in and out are uint8_t,
// little-endian.

// The largest |x| as bits of a float. At least 0x7f800000 if and only if a value is not finite.
uint32_t quant_absmax_bits(const float *x, size_t n);
uint32_t quant_absmax_bits_le(const uint8_t *x, size_t n);
uint32_t quant_absmax_bits_f16(const uint8_t *x,
                               size_t n); // of the halves: >= 0x7c00 is not finite
uint32_t quant_absmax_bits_bf16(const uint8_t *x, size_t n); // >= 0x7f80 is not finite

// sums.c: sums in double over 1024-value blocks: 16 lanes, a fixed tree, blocks in order. The same
// on every machine. And quant_absmax_bits, which the sums' passes find too.
double quant_sum(const float *x, size_t n);
double quant_dot(const float *x, const float *y, size_t n);
double quant_sum_abs(const float *x, size_t n);
double quant_sum_sq(const float *x, size_t n);
double quant_sum_sq_diff(const float *x, const float *y, size_t n); // sum of (x - y)^2

size_t quant_count_nonneg(const float *x, size_t n); // x >= 0, -0 too

// The largest magnitude and the wanted ones of these sums in one pass, added to what is there. The
// sums do not depend on how a run is cut into pieces of whole 1024-value blocks.
enum { QUANT_SUM = 1, QUANT_ABS = 2, QUANT_SQ = 4, QUANT_NONNEG = 8, QUANT_NO_MAX = 16 };
struct quant_stats {
    double sum, abs, sq;
    size_t nonneg;
    uint32_t max_bits;
};
void quant_stats(const float *x, size_t n, unsigned wanted, struct quant_stats *s);

// Scalar quantisers: one code per value. rnd holds a random word per value; its upper 24 bits are u
// in [0, 1).
void quant_nearest_u8(const float *x, size_t n, float inv, int q,
                      uint8_t *code); // q + rne(x inv), clipped
// q + sign(x) floor(|x| inv + u), clipped to 2 q: unbiased stochastic rounding
void quant_stochastic_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q,
                         uint8_t *code);
// q + sign(x) floor(|x| inv + round), clipped to 2 q; and back, magnitude m becoming m scale[0] +
// scale[1] where it is 1, m scale[0] + scale[2] above
void quant_deadzone_u8(const float *x, size_t n, float inv, float round, int q, uint8_t *code);
void quant_centred_from_u8(const uint8_t *code, size_t n, int zero, const float scale[3],
                           struct quant_sink to);
// q + floor(x inv + u), clipped: with u subtracted again by the receiver, dithering
void quant_dither_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q,
                     uint8_t *code);
void quant_sign_u8(const float *x, size_t n, uint8_t *code); // 1 where x >= 0
void quant_coin_u8(const float *x, const uint32_t *rnd, size_t n, float inv,
                   uint8_t *code); // u < (x inv + 1) / 2
void quant_bounds_u8(const float *x, size_t n, float inv, const float *bound, int n_bounds,
                     uint8_t *code); // how many ascending bounds are at or below x inv
// q + sign(x) k, 2^(k-q) being one of the powers of two around |x| inv, or k = 0: unbiased
void quant_powers_u8(const float *x, const uint32_t *rnd, size_t n, float inv, int q,
                     uint8_t *code);
void quant_linear_from_u8(const uint8_t *code, size_t n, int zero, float step,
                          struct quant_sink to);
void quant_dither_from_u8(const uint8_t *code, const uint32_t *rnd, size_t n, int zero, float step,
                          struct quant_sink to);
void quant_table_from_u8(const uint8_t *code, size_t n, const float table[16],
                         struct quant_sink to);

void quant_lookup_from_u8(const uint8_t *code, size_t n, const float table[256],
                          struct quant_sink to);

void quant_f32_give(const float *x, size_t n, struct quant_sink to);
void quant_f32_to_le(const float *x, size_t n, uint8_t *out);
void quant_f32_from_le(const uint8_t *in, size_t n, struct quant_sink to);
void quant_f16_to_le(const float *x, size_t n, float scale, uint8_t *out); // clamped to +-65504
void quant_f16_from_le(const uint8_t *in, size_t n, float scale, struct quant_sink to);
// 16-bit codes q + rne(x inv), clipped, and back.
void quant_i16_to_le(const float *x, size_t n, float inv, uint8_t *out);
void quant_i16_from_le(const uint8_t *in, size_t n, float step, float *v);
void quant_bf16_to_le(const float *x, size_t n, uint8_t *out);
void quant_bf16_from_le(const uint8_t *in, size_t n, struct quant_sink to);

// Value i is mean where bit first + i is set, else -mean.
void quant_signs_from_bits(const uint8_t *bits, size_t first, size_t n, float mean, float *v);

// quant_pack.c: floats straight to packed codes and back; the same bytes as quant.c and pack.c in
// turn. Each group has its scale; where there are several, group is a multiple of 8.
// width >= the bits of 2 q, at most 8. rnd: stochastic rounding, NULL: to nearest. next (n): what
// the caller looks at afterwards, fetched meanwhile; it may lie beyond all values.
void quant_pack(const float *x, const float *next, const uint32_t *rnd, size_t n, size_t group,
                const float *scale, int q, unsigned width, uint8_t *out);
void quant_pack_sign(const float *x, size_t n, uint8_t *out);
// and adds |x| block by block, as quant_stats does
void quant_pack_sign_abs(const float *x, size_t n, uint8_t *out, double *total);
// (code - zero) * scale, or the table's entry. stream: past the caches, for what is not read again
// soon; not when adding.
void quant_unpack(const uint8_t *in, size_t n, unsigned width, size_t group, const float *scale,
                  int zero, struct quant_sink to, bool stream);
void quant_unpack_table(const uint8_t *in, size_t n, unsigned width, const float table[16],
                        struct quant_sink to, bool stream); // width 1 to 4
void quant_stream(const float *x, size_t n, float *to);     // a copy past the caches

// pack.c: fixed-width codes, low bits first.
size_t pack_bytes(size_t n, unsigned width);                               // of n codes
void pack_u8(const uint8_t *code, size_t n, unsigned width, uint8_t *out); // width 1 to 8
void unpack_u8(const uint8_t *in, size_t n, unsigned width, uint8_t *code);
void pack_u16(const uint16_t *code, size_t n, unsigned width, uint8_t *out); // width 9 to 16
void unpack_u16(const uint8_t *in, size_t n, unsigned width, uint16_t *code);
void pack_base3(const uint8_t *code, size_t n, uint8_t *out);  // five codes of 0 to 2 per byte
void unpack_base3(const uint8_t *in, size_t n, uint8_t *code); // a broken byte gives a code above 2
uint8_t pack_max_u8(const uint8_t *code, size_t n);
void pack_count_u8(const uint8_t *code, size_t n, uint64_t count[256]);

// rans.c: order-0 entropy coding. Interleaved rANS (Duda 2013; Giesen 2014): state 31 bits, words
// of 16 bits, probabilities of 12 bits; code i belongs to lane i % lanes. Its stream: one 4-byte
// state per lane, then the words in the order of reading.
#define RANS_PROB_BITS     12
#define RANS_LANES_MAX     32
#define RANS_PROB_ONE      (1u << RANS_PROB_BITS)
#define RANS_STATE_LOW     (1u << 15)                 // states lie in [2^15, 2^31)
#define RANS_FULL_SHIFT    (15 - RANS_PROB_BITS + 16) // a state >= freq << this sheds a word
#define RANS_STEP_FREQ(s)  (RANS_PROB_ONE - ((s)&0x1fffu))
#define RANS_STEP_START(s) ((s) >> 13 & 0x1fffu)
#define RANS_STEP_SHIFT(s) ((s) >> 26)
struct rans_encoder {
    uint32_t step[256]; // (4096 - freq) | start << 13 | shift << 26
    uint32_t reciprocal[256];
    unsigned first, kinds; // codes that occur lie in [first, first + kinds)
};
#define RANS_FEW 16
struct rans_decoder {
    uint32_t slot[1 << RANS_PROB_BITS]; // code | freq << 8 | (slot - start) << 20
    unsigned first, kinds;              // the least code that occurs, and how many lead to the last
    uint16_t start[RANS_FEW], freq[RANS_FEW]; // of codes from the first on
};
// Frequencies that sum to 4096, at least 1 for a code that occurs. At least two codes must occur.
void rans_frequencies(const uint64_t count[256], uint16_t freq[256]);
void rans_encoder_init(struct rans_encoder *e, const uint16_t freq[256]);
int rans_decoder_init(struct rans_decoder *d,
                      const uint16_t freq[256]); // -1: they do not sum to 4096
unsigned rans_lanes(size_t n);                   // few for short streams: each costs 4 bytes
size_t rans_bound(size_t n);                     // most bytes of a stream
// Writes into the end of buf, which has rans_bound(n) bytes; returns the stream's length.
size_t rans_encode(const struct rans_encoder *e, const uint8_t *code, size_t n, uint8_t *buf);
// -1: the bytes are not a stream of n codes.
int rans_decode(const struct rans_decoder *d, const uint8_t *in, size_t len, uint8_t *code,
                size_t n);
struct rans_stream {
    const uint8_t *in;
    size_t len;
    uint8_t *code;
    size_t n;
};
// Two of them by the same table, in less time than one after the other.
int rans_decode_two(const struct rans_decoder *d, const struct rans_stream *one,
                    const struct rans_stream *two);

// select.c: the k largest.
#define SELECT_BINS   2048
#define SELECT_LEVELS 3
enum select_side { SELECT_ABS, SELECT_POSITIVE, SELECT_NEGATIVE };
// Begin with k; at each of three levels count all values, with prefix, and go to the next. Then
// prefix holds the bits of the k-th largest magnitude and left the number of its ties to take.
struct select_threshold {
    int level;
    uint32_t prefix;
    size_t left;
};
void select_threshold_begin(struct select_threshold *c, size_t k);
void select_threshold_next(struct select_threshold *c, const uint32_t count[SELECT_BINS]);
// Which values matter for the k largest is guessed from every stride-th run of 16, SELECT_STRIDE in
// large arrays: the least upper bits that are worth counting. Counts at level 0 may leave out what
// lies below; sum to fewer than k, they are to be made again from 0.
#define SELECT_STRIDE 64
size_t select_sample(const float *x, size_t n, enum select_side side, size_t stride,
                     uint32_t count[SELECT_BINS]);
uint32_t select_floor(const uint32_t count[SELECT_BINS], size_t seen, size_t n, size_t k);
// The same inside the bin, as if its values lay evenly: bits of the least magnitude, 0 = all.
uint32_t select_least(const uint32_t count[SELECT_BINS], size_t seen, size_t n, size_t k);
// Adds to count; values that are not on the side count as zero. At level 0 prefix is the floor.
void select_count(const float *x, size_t n, enum select_side side, int level, uint32_t prefix,
                  uint32_t count[SELECT_BINS]);
// At level 1 or 2 for several prefixes at once; the same prefix may stand there twice.
void select_count_many(const float *x, size_t n, enum select_side side, int level,
                       const uint32_t *prefix, int prefixes, uint32_t count[][SELECT_BINS]);
// base + i of all values whose magnitude has at least these bits, as far as there is room; returns
// how many there are.
size_t select_collect(const float *x, size_t n, enum select_side side, uint32_t least,
                      uint32_t base, uint32_t *at, size_t room);
// Appends base + i of values above the threshold and of the first *ties at it (*ties goes down);
// returns how many.
size_t select_take(const float *x, size_t n, enum select_side side, uint32_t threshold,
                   size_t *ties, uint32_t base, uint32_t *at);

// How many values reach a magnitude on this side. And by a threshold that has been found, whose
// ties are used up on the way: how many values it takes, adding their magnitudes in order to sum;
// and what it leaves of positions and values, from the beginning on.
size_t select_reach(const float *v, size_t n, enum select_side side, uint32_t least);
size_t select_sum(const float *v, size_t n, enum select_side side,
                  struct select_threshold *threshold, double *sum);
size_t select_thin(uint32_t *at, float *v, size_t n, enum select_side side,
                   struct select_threshold *threshold);

// coords.c: values by their positions, which ascend.
void coords_gather(const float *x, const uint32_t *at, size_t n, float *v);
void coords_give(const uint32_t *at, const float *v, size_t n, struct quant_sink to);
void coords_clear(const uint32_t *at, size_t n, float *x);     // x[at] = 0
void coords_map(const uint32_t *from, uint32_t *at, size_t n); // at = from[at]
size_t coords_below(const uint32_t *at, size_t n, size_t pos); // how many are below pos
void coords_vote(const uint32_t *at, const float *v, size_t n, float *sum,
                 uint32_t *senders); // sum[at] += v, senders[at] += 1
// to [begin, end) = the values, 0 elsewhere, past the caches.
void coords_stream(const uint32_t *at, const float *v, size_t n, size_t begin, size_t end,
                   float *to);
// k of [base, base + n) at random, by words 0, 1, ... of a stream.
void coords_draw(const uint32_t key[2], const uint32_t ctr[4], size_t n, size_t k, uint32_t base,
                 uint32_t *at);

// hash.c: count sketches, of up to 9 rows. The words of a row's stream are the hashes of its
// coordinates; `from` is a multiple of 4.
struct hash_row {
    uint32_t key[2], ctr[4];
};
void hash_add(const struct hash_row *row, const float *x, size_t n, size_t cols,
              float *cells); // cells (cols) of this row
// x[i] = the median over the rows of what they have for coordinate from + i; rows is odd.
void hash_estimate(const struct hash_row *row, size_t rows, const float *cells, size_t cols,
                   size_t from, size_t n, float *x);
void hash_clear(const struct hash_row *row, size_t rows, size_t cols, const uint32_t *at, size_t n,
                float *cells); // the cells that these coordinates touch

// dct.c: cosine transforms of blocks of r rows and c columns, down x across of them in a matrix.
// Orthonormal: D(k, j) = sqrt(2 / n) cos(pi (2 j + 1) k / (2 n)), D(0, j) = 1 / sqrt(n).
#define DCT_MOST 64 // rows or columns of a block
struct dct_blocks {
    size_t r, c, down, across;
};
struct dct_basis {
    float d[DCT_MOST * DCT_MOST], t[DCT_MOST * DCT_MOST]; // D (n, n), and transposed
};
// y = D_down x D_across^T, block after block; and back, x = D_down^T y D_across.
void dct_forward(const struct dct_blocks *b, const struct dct_basis *down,
                 const struct dct_basis *across, const float *x, float *y);
void dct_backward(const struct dct_blocks *b, const struct dct_basis *down,
                  const struct dct_basis *across, const float *y, struct quant_sink to);

// factor.c: M (rows, cols) as P Q^T, P (rows, rank), Q (cols, rank), column after column.
// A column that depends on those before it becomes zero.
void factor_orthonormalise(float *v, size_t n, size_t rank);
void factor_times(const float *m, size_t rows, size_t cols, const float *q, size_t rank,
                  float *p); // P = M Q
void factor_times_turned(const float *m, size_t rows, size_t cols, const float *p, size_t rank,
                         float *q); // Q = M^T P
void factor_give(const float *p, const float *q, size_t rows, size_t cols, size_t rank, float *row,
                 struct quant_sink to); // P Q^T; row: (cols) to work in
// c (m, width) = sum over terms of A_t (m, each) B_t (each, width), where B_0, B_1, ... stand one
// after another in b; width: a multiple of 16.
struct factor_stack {
    const float *const *at; // (n) of each term's first value
    size_t n, each;
    size_t row, col; // how far apart its rows and the values of a row are
};
void factor_product(const struct factor_stack *s, size_t m, const float *b, size_t width, float *c);

// principal.c: tiles of a matrix (rows, length), or of its transpose in memory, whose few rows are
// mixed.
#define KLT_ROWS 64  // most rows
#define KLT_TILE 256 // places of a tile's row, and columns of most tiles
#define KLT_MOST 127 // codes are KLT_MOST plus or minus their magnitude
struct klt_tile {
    size_t rows, length, at, cols; // columns [at, at + cols)
    bool turned;                   // (length, rows) in memory
};
void klt_load(const float *x, const struct klt_tile *t, float scale, float *m);
void klt_store(const float *m, const struct klt_tile *t, struct quant_sink to);
// g (rows, rows) += m m^T, in its upper triangle; the largest sum of squares of a column.
void klt_gram(const float *m, size_t rows, size_t cols, double *g);
float klt_column(const float *m, size_t rows, size_t cols);
// to (rows) = w (rows, inner) from (inner)
void klt_mix(const float *w, size_t rows, size_t inner, const float *from, size_t cols, float *to);
// Of a row (n <= KLT_TILE): sign(y) floor(|y| + round); or, of its magnitude, one less and 0, the
// one of least squared error plus cost. off: what magnitudes 1, 2 and all others are worth beyond
// themselves. Adds sums of |y| by the code's magnitude to s; by: of |y| times a magnitude above 2.
struct klt_cost {
    float off[4], cost[KLT_MOST + 1];
};
struct klt_means {
    double one, two, more, by;
};
void klt_code(const float *y, size_t n, float round, uint8_t *code, struct klt_means *s);
void klt_code_rd(const float *y, size_t n, float round, const struct klt_cost *k, uint8_t *code,
                 struct klt_means *s);
// sign(code) (magnitude step + one, two or more); v has KLT_TILE places.
struct klt_worth {
    float step, one, two, more;
};
void klt_give(const uint8_t *code, size_t n, const struct klt_worth *w, float *v);

// alloc.c: bit allocation. Importance of each coordinate, never below 0 nor NaN.
void alloc_magnitude(const float *x, size_t n, float *u); // x^2
void alloc_fisher(const float *x, const float *sens, size_t n, float mul, int gamma16,
                  float *u); // (sens mul)^(gamma16/16) x^2
void alloc_power(const float *sens, size_t n, float mul, int gamma16,
                 float *w); // (sens mul)^(gamma16/16)
void alloc_first_order(const float *x, const float *grad, size_t n, bool absolute,
                       float *u);                           // -g x or |g x|
void alloc_words(const uint32_t *word, size_t n, float *u); // random words to (0, 1)
// Importance that knows nothing of the values: words [first, first + n) of a stream, first a
// multiple of 4; and an even comb over coordinates first, first + 1, ...
void alloc_drawn(const uint32_t key[2], const uint32_t ctr[4], size_t first, size_t n, float *u);
void alloc_comb(uint32_t first, size_t n, float *u);
void alloc_weight(const float *x, size_t n, float *u); // u becomes u / x^2
// tag = how many of the ascending thresholds the bits of u reach; true when some u equals a
// threshold.
bool alloc_tags(const float *u, size_t n, const uint32_t *threshold, int thresholds, uint8_t *tag);
// Of values that equal threshold k the first ties[k] (which goes down) keep the width, others get
// the one below.
void alloc_ties(const float *u, size_t n, const uint32_t *threshold, int thresholds, size_t *ties,
                uint8_t *tag);
void alloc_bitmap(const uint8_t *tag, size_t n, uint8_t *bits); // a bit for every tag that is not 0
// The values whose tag is the wanted one, in order: out of x (out has room for n + 16), and into
// the sink (v can be read 16 beyond them).
size_t alloc_gather(const float *x, const uint8_t *tag, size_t n, uint8_t want, float *out);
// Those whose tag is not 0, and their tags; v and kept have room for 16 more than there are tags.
size_t alloc_keep(const float *x, const uint8_t *tag, size_t n, float *v, uint8_t *kept);
size_t alloc_scatter(const float *v, const uint8_t *tag, size_t n, uint8_t want,
                     struct quant_sink to);

#define ALLOC_LEVELS 9
enum alloc_kind { ALLOC_NONE, ALLOC_SIGN, ALLOC_INT, ALLOC_FP16 };
struct alloc_levels { // what each width does to the coordinates of one group; level 0 sends nothing
    int count;
    enum alloc_kind kind[ALLOC_LEVELS];
    float scale[ALLOC_LEVELS], inverse[ALLOC_LEVELS], q[ALLOC_LEVELS];
    float cost[ALLOC_LEVELS]; // lambda (bits of the level - bits of level 0); 0 for level 0
};
// choose.c: tag = the level of least w e^2 + cost, the narrower of equal ones. w, of a squared
// error: as it is given, or as many square roots of F mul, which is 0 where it is below. Adds to
// the counts of tags; n < 65536 + 32.
struct alloc_weights {
    const float *of;
    int roots; // up to 4; -1: weights
    float mul;
};
void alloc_choose(const float *x, const struct alloc_weights *w, size_t n,
                  const struct alloc_levels *l, uint8_t *tag, int64_t *count);
// Magnitudes by size: bin |v| inv, the last one takes all from bins - 1 on. Adds.
void alloc_bins(const float *v, size_t n, float inv, int bins, uint32_t *bin);
// Positions from base on of tags that are not 0, and their tags less 1, in order; both have room
// for one more than are found.
size_t alloc_positions(const uint8_t *tag, size_t n, uint32_t base, uint32_t *at);
size_t alloc_kept(const uint8_t *tag, size_t n, uint8_t *kept);
void alloc_count(const uint8_t *tag, size_t n, int levels, int64_t *count); // adds; n < 65536
// Tags, 0 or 1: each 1 becomes 1 + the next of kept, which can be read 8 beyond what is taken;
// returns how many are taken.
size_t alloc_merge(uint8_t *tag, size_t n, const uint8_t *kept);

// rotate.c: randomised Hadamard rotation.
void rotate_signs(const float *x, const uint32_t *bits, size_t n,
                  struct quant_sink to); // -x where bit i is set
// v = y inv, and which of two levels it means: the upper one from 0 on.
void rotate_sides(const float *y, size_t n, float inv, float below, float above, float *v,
                  float *level);
void rotate_fwht(float *x, size_t n); // unnormalised, in place; n a power of two

// trellis.c: trellis-coded quantisation. Of two quantisers, of even multiples and of 0 and odd
// ones, the parity of each code says which the next value has: states with an even number have the
// first.
#define TRELLIS_STATES 8
#define TRELLIS_MOST   126 // magnitude of a code
#define TRELLIS_ZERO   127 // codes are it plus or minus their magnitude
#define TRELLIS_BLOCK  4096
struct trellis {
    float inv;                       // values times it are in half steps
    float beyond[3];                 // what levels of 1, 2 and more are worth beyond themselves
    float cost[2][TRELLIS_MOST + 2]; // of a quantiser's magnitudes, in squares of half steps
};
struct trellis_block { // a path from state 0 on
    const float *x;
    size_t n;              // at most TRELLIS_BLOCK
    uint8_t *code, *which; // which quantiser's
};
// The paths of least squared error and cost.
void trellis_code(const struct trellis *t, const struct trellis_block *block, size_t blocks);
// Adds what has a level of 1, of 2, and of 3 and more: magnitudes times inv one after the other,
// how many, and their levels.
struct trellis_sums {
    double value[3], n[3], levels[3];
};
void trellis_add(const struct trellis_block *block, float inv, struct trellis_sums *sums);

// mix.c: vectors mixed value by value.
void mix_sum(float a, const float *x, float b, const float *y, size_t n,
             float *out);                                          // out = a x + b y; may be x or y
void mix_add_f64(double a, const double *x, size_t n, double *to); // to += a x
void mix_scale(float a, size_t n, float *x);                       // x = a x
bool mix_finite(const float *x, const float *y, size_t n);         // whether all x + y are
void mix_fill(float v, size_t n, float *x);                        // x = v
void mix_sign(float step, size_t n, float *x);                     // x = step sign(x)
void mix_mean(const uint32_t *senders, size_t n, float *sum);      // sum / senders, 0 where none
struct mix_momentum {
    float mu, scale;
    bool nesterov;
};
// u = mu u0 + scale x, v = v0 + u; or u = mu (u0 + scale x), v = v0 + u + scale x
void mix_momentum(const struct mix_momentum *m, const float *x, const float *u0, const float *v0,
                  size_t n, float *u, float *v);
void mix_votes(const uint8_t *code, size_t n, int32_t *sum); // sum += 1 for code 1, -1 for 0
void mix_majority(const int32_t *sum, size_t n, float step, float tie,
                  float *out); // step along the sign of the sum

// philox.c: random words. Words [first, first + n) of the stream that base/rng.h names, first a
// multiple of 4.
void philox_words(const uint32_t key[2], const uint32_t ctr[4], uint64_t first, size_t n,
                  uint32_t *out);
// Words [0, n) as numbers in [-1, 1), multiples of 2^-23.
void philox_uniform(const uint32_t key[2], const uint32_t ctr[4], size_t n, float *v);

#ifdef __cplusplus
}
#endif
#endif
