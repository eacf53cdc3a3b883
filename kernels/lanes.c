#include "lanes.h"

#if SIMD_X86
#define ROWS_4(row, m) row(m), row((m) + 1), row((m) + 2), row((m) + 3)
#define ROWS_16(row, m)                                                                            \
    ROWS_4(row, m), ROWS_4(row, (m) + 4), ROWS_4(row, (m) + 8), ROWS_4(row, (m) + 12)
#define ROWS_64(row, m)                                                                            \
    ROWS_16(row, m), ROWS_16(row, (m) + 16), ROWS_16(row, (m) + 32), ROWS_16(row, (m) + 48)
#define ROWS(row) ROWS_64(row, 0), ROWS_64(row, 64), ROWS_64(row, 128), ROWS_64(row, 192)

// Bits of m below bit i.
#define BELOW(m, i) __builtin_popcount((m) & ((1 << (i)) - 1))
#define SPREAD(m)                                                                                  \
    {                                                                                              \
        0, BELOW(m, 1), BELOW(m, 2), BELOW(m, 3), BELOW(m, 4), BELOW(m, 5), BELOW(m, 6),           \
            BELOW(m, 7)                                                                            \
    }
const uint8_t lanes_spread_from[256][8] = {ROWS(SPREAD)};

// Where the i-th bit of m is: as many places as have at most i bits up to them.
#define UPTO(m, i, k) (BELOW(m, (k) + 1) <= (i))
#define PLACE(m, i)                                                                                \
    (UPTO(m, i, 0) + UPTO(m, i, 1) + UPTO(m, i, 2) + UPTO(m, i, 3) + UPTO(m, i, 4) +               \
     UPTO(m, i, 5) + UPTO(m, i, 6))
#define CLOSE(m)                                                                                   \
    {                                                                                              \
        PLACE(m, 0), PLACE(m, 1), PLACE(m, 2), PLACE(m, 3), PLACE(m, 4), PLACE(m, 5), PLACE(m, 6), \
            PLACE(m, 7)                                                                            \
    }
const uint8_t lanes_close_from[256][8] = {ROWS(CLOSE)};
#endif
