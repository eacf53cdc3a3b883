// A method is one string:
// SCHEME[:opts][~TOKENS[:opts]]/[VIEW[:opts]@]CODEC[:opts][+WRAPPER[:opts]...][;CODEC...]
// The first codec is the update's; those behind it are of what else a frame carries, then of what
// client and server say to each other in a round. One that is not named is fp32.
#ifndef FSTQ_FED_METHOD_H
#define FSTQ_FED_METHOD_H

#include "codec/codec.h"
#include "fed/scheme.h"
#include "fed/view.h"
#include "model/tokens.h"

#include <stdint.h>

// A short name is a method by itself, or stands where a codec does: fstq-paper:budget=0.05,
// fedadam/fstq-paper+ef.
struct method_alias {
    const char *name, *expansion, *help; // expansion NULL: named in papers, and help says why not
};

extern const struct method_alias method_aliases[]; // name NULL ends

struct method {
    const struct scheme *scheme;
    void *scheme_opt, *form; // form: what the scheme's check worked out
    const struct token_source *tokens;
    struct token_opts token_opt;
    struct view_inst view;          // its parts have the codecs
    struct view_inst down;          // and those of fed.downlink, where versions are coded
    const struct codec_inst *codec; // the first part's: what it needs, its flags, its text
    char said[2][512];              // codecs of scheme_talk.what, expanded
    char text[1024];                // expanded: every option by name
};

// The shape outlives the method.
int method_open(struct method *m, const char *text, const struct shape *shape, struct err *err);
// Before any shape is known: is it good, and written out with every option.
int method_check(const char *text, struct err *err);
int method_expand(const char *text, char *out, size_t size, struct err *err);
void method_close(struct method *m);
// What the server sees of a client under a method that is good: "updates", or more than that.
const char *method_sees(const char *text);

#endif
