// The embedded base model, as bytes inside the program: `fstq run` needs no file beside it. Made by
// `make base-model` (configs/base-model.ini).
#include "model/inner.h"

__asm__(".pushsection .rodata\n"
        ".balign 64\n"
        ".global base_model_begin\n"
        "base_model_begin:\n"
        ".incbin \"src/model/base.safetensors\"\n"
        ".global base_model_end\n"
        "base_model_end:\n"
        ".byte 0\n"
        ".popsection\n");
