#include "stages.h"

const struct codec_stages codec_stages_cpu = {
    .name = "cpu",
    .quant = &quant_stages_cpu,
    .alloc = &alloc_stages_cpu,
    .rotate = &rotate_stages_cpu,
    .select = &select_stages_cpu,
    .mix = &mix_stages_cpu,
};
