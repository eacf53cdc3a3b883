// Who has which backbone, where clients of one federation have several (model.others): the first
// kind is model.path, the others as they are named.
#ifndef FSTQ_FED_BACKBONES_H
#define FSTQ_FED_BACKBONES_H

#include "model/model.h"
#include "model/side.h"

struct backbones {
    int32_t n;                  // kinds
    char path[SIDE_TYPES][240]; // model.path of each
    double share[SIDE_TYPES];   // of clients
    struct model_config config[SIDE_TYPES];
};

// The text alone.
int backbones_parse(const struct model_params *m, struct backbones *b, struct err *err);
// And what their files say, without weights.
int backbones_open(const struct model_params *m, struct backbones *b, struct err *err);
// The kind of each client, (clients) for mem_free, drawn from the seed: as many of each as its
// share says, rounded. NULL with err: of some kind there would be none.
uint8_t *backbones_deal(const struct backbones *b, uint32_t clients, uint64_t seed,
                        struct err *err);
// Multiplications and additions of a token on its way through the layers.
double backbones_flops(const struct model_config *c);

#endif
