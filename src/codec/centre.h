// Where the values of a magnitude have their mean, as a byte: 1/128 of the step beyond it, two's
// complement.
#ifndef FSTQ_CODEC_CENTRE_H
#define FSTQ_CODEC_CENTRE_H

#include <math.h>
#include <stdint.h>

#define CENTRE_ONE 128

static inline float centre_worth(uint8_t byte)
{
    return (float)(byte < 128 ? byte : byte - 256) / CENTRE_ONE;
}

// n values whose magnitudes sum to `levels` sum to `sum` steps.
static inline uint8_t centre_code(double sum, double n, double levels)
{
    if (!(n > 0))
        return 0;
    double v = floor((sum - levels) / n * CENTRE_ONE + 0.5);
    return (uint8_t)(int)(v < -128 ? -128 : v > 127 ? 127 : v);
}

#endif
