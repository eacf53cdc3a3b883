// Families of models: what each has beside a Llama, and its names in files.
#ifndef FSTQ_MODEL_FAMILY_H
#define FSTQ_MODEL_FAMILY_H

#include "model/model.h"

// Which layers have a window where a config does not name them.
enum family_windows {
    FAMILY_WINDOW_NONE,
    FAMILY_WINDOW_ALL,
    FAMILY_WINDOW_ABOVE,   // from max_window_layers on, where use_sliding_window says so
    FAMILY_WINDOW_PATTERN, // all but every sixth, with a rope_theta of their own
};

struct family {
    const char *name, *gguf; // model_type of a config.json; architecture of a GGUF file, or NULL
    struct model_traits traits;
    enum family_windows windows;
    bool tied;    // where a config does not say
    double theta; // likewise; 0 = 10000
};
extern const struct family model_families[]; // ends with a NULL name

void family_begin(struct model_config *c, int32_t family);
void family_window(struct model_config *c, int32_t layer); // this layer has the window
// A Hugging Face config.json, or the config of our own checkpoint, which is the same with a key or
// two more.
int model_config_json(const char *text, size_t n, struct model_config *c, struct err *err);
char *model_config_text(const struct model_config *c); // to be freed

#endif
