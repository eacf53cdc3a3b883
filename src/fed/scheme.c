#include "fed/scheme.h"

#include "fed/binary.h"
#include "fed/split.h"

#include <math.h>
#include <string.h>

static void mean_commit(const void *opt, float *theta, const float *delta, float *state, size_t n,
                        struct shape_range range, double lr)
{
    (void)opt;
    (void)state;
    (void)n;
    float s = (float)lr;
    for (size_t i = range.from; i < range.to; i++)
        theta[i] += s * delta[i];
}

static const struct scheme fedavg = {
    .name = "fedavg",
    .help = "weighted mean of the updates, times the server step",
    .source = "McMahan et al. 2017",
    .server = &server_sync,
    .commit = mean_commit,
};

static const struct scheme noop = {
    .name = "noop",
    .help = "no training: clients return zeros; what the machinery alone costs (floor)",
    .source = "",
    .flags = SCHEME_NO_TRAIN,
    .server = &server_sync,
    .commit = mean_commit,
};

static const struct scheme fedex = {
    .name = "fedex",
    .help = "means of A and B; what their product lacks of the mean product moves the backbone",
    .source = "FedEx-LoRA, ACL 2025; the downlink carries the backbone's whole change, dense",
    .flags = SCHEME_PRODUCTS,
    .server = &server_sync,
    .commit = mean_commit,
};

static const struct opt binary_options[] = {
    OPT(struct binary_opt, warmup, "warmup", "0.5", 0, 1, "",
        "share of the local steps before updates are binary"),
    OPT(struct binary_opt, rho, "rho", "6", 0, 1e3, "", "alpha = alpha0 exp(rho a)"),
    OPT(struct binary_opt, alpha_min, "alpha_min", "0", 0, 1e6, "",
        "least alpha; 5e-4 in the paper"),
    OPT(struct binary_opt, alpha_max, "alpha_max", "1", 0, 1e6, "", "most; 5e-2 in the paper"),
};

static const struct scheme fedbat = {
    .name = "fedbat",
    .help = "clients learn updates of +-alpha, one alpha a matrix; fedbat/sign sends just that",
    .source = "FedBAT, ICML 2024",
    .options = binary_options,
    .n_options = ARRAY_LEN(binary_options),
    .option_bytes = sizeof(struct binary_opt),
    .flags = SCHEME_BINARY,
    .server = &server_sync,
    .commit = mean_commit,
};

static const struct opt split_options[] = {
    OPT(struct split_opt, cut, "cut", "1", 1, 4096, "layers", "that clients run and nobody trains"),
};

static const struct scheme split = {
    .name = "split",
    .help = "clients send activations at a cut, and labels; the server trains the layers above it "
            "for each client in turn, then takes the mean as fedavg does",
    .source = "Fed-ToMe's tome-act: split learning (Vepakomma et al. 2018) with nothing trained "
              "below the cut; the codec says how activations are written: fp16 or fp32",
    .options = split_options,
    .n_options = ARRAY_LEN(split_options),
    .option_bytes = sizeof(struct split_opt),
    .flags = SCHEME_SPLIT,
    .server = &server_sync,
    .commit = mean_commit,
};

static const struct scheme flora = {
    .name = "flora",
    .help = "the mean product (of stacked adapters) moves the backbone; adapters begin anew",
    .source = "FLoRA, NeurIPS 2024; the downlink carries the backbone's whole change, dense",
    .flags = SCHEME_PRODUCTS | SCHEME_FRESH,
    .server = &server_sync,
    .commit = mean_commit,
};

// Reddi et al. 2021, Algorithm 2: m = b1 m + (1-b1) D; v by row; x += lr m / (sqrt(v) + tau); v
// starts at tau^2.
struct adaptive_opt {
    double beta1, beta2, tau;
};

static const struct opt adaptive_options[] = {
    OPT(struct adaptive_opt, beta1, "beta1", "0.9", 0, 0.99999, "", "decay of the mean"),
    OPT(struct adaptive_opt, beta2, "beta2", "0.99", 0, 0.99999, "", "decay of the square"),
    OPT(struct adaptive_opt, tau, "tau", "0.001", 1e-12, 1e3, "",
        "adaptivity: added to the root, starts its square"),
};

static void adaptive_init(const void *opt, float *state, size_t n)
{
    const struct adaptive_opt *o = opt;
    memset(state, 0, n * sizeof *state);
    for (size_t i = 0; i < n; i++)
        state[n + i] = (float)(o->tau * o->tau);
}

static void adam_commit(const void *opt, float *theta, const float *delta, float *state, size_t n,
                        struct shape_range range, double lr)
{
    const struct adaptive_opt *o = opt;
    float b1 = (float)o->beta1, b2 = (float)o->beta2, tau = (float)o->tau, s = (float)lr;
    float *m = state, *v = state + n;
    for (size_t i = range.from; i < range.to; i++) {
        float d = delta[i];
        m[i] = b1 * m[i] + (1.0f - b1) * d;
        v[i] = b2 * v[i] + (1.0f - b2) * d * d;
        theta[i] += s * m[i] / (sqrtf(v[i]) + tau);
    }
}

static void yogi_commit(const void *opt, float *theta, const float *delta, float *state, size_t n,
                        struct shape_range range, double lr)
{
    const struct adaptive_opt *o = opt;
    float b1 = (float)o->beta1, b2 = (float)o->beta2, tau = (float)o->tau, s = (float)lr;
    float *m = state, *v = state + n;
    for (size_t i = range.from; i < range.to; i++) {
        float d = delta[i], q = d * d;
        float sign = v[i] > q ? 1.0f : v[i] < q ? -1.0f : 0.0f;
        m[i] = b1 * m[i] + (1.0f - b1) * d;
        v[i] -= (1.0f - b2) * q * sign;
        theta[i] += s * m[i] / (sqrtf(v[i]) + tau);
    }
}

#define ADAPTIVE(n, c, h)                                                                          \
    {                                                                                              \
        .name = n, .help = h, .source = "Reddi et al. 2021, Algorithm 2",                          \
        .options = adaptive_options, .n_options = ARRAY_LEN(adaptive_options),                     \
        .option_bytes = sizeof(struct adaptive_opt), .server = &server_sync, .state_vectors = 2,   \
        .init = adaptive_init, .commit = c                                                         \
    }

static const struct scheme fedadam =
    ADAPTIVE("fedadam", adam_commit, "Adam at the server on the mean update");
static const struct scheme fedyogi =
    ADAPTIVE("fedyogi", yogi_commit, "Yogi at the server on the mean update");

const struct scheme *const scheme_table[] = {&fedavg, &fedadam, &fedyogi, &fedbat, &fedex,
                                             &flora,  &split,   &noop,    NULL};

const struct scheme *scheme_find(const char *name)
{
    for (int i = 0; scheme_table[i]; i++)
        if (strcmp(scheme_table[i]->name, name) == 0)
            return scheme_table[i];
    return NULL;
}
