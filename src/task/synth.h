// The embedded task: synthetic multilingual and medical question answering over 800 words, small
// enough that a 330 K-parameter model learns it in 30 federated rounds. One token is one word;
// words are spelled in the script of their language, so text, tokenizer and scores are real.
//
// A fact is six words: a name, an attribute directly before its value of two words, a particle and
// a full stop, in an order that depends on the language. A context is four facts about one name.
//   SYNTH_QA       context, Q: which of the attributes (by its name, or by a wh-word that only the
//                  corpus's glossary links to it) and whose, A: the attribute and its value, end
//   SYNTH_LONG     context, Q: three attributes (by name) in some order and whose, A: those three
//                  facts in full, end
//   SYNTH_MEDICAL  four findings (drug, disease, outcome), Q: drug and disease, of which another
//                  finding has one, too; A: yes, no or maybe (a class of the outcome, linked by the
//                  glossary) and the outcome, end
// The corpus never holds a question: what is learned from clients is the form, each language's
// question grammar, the link from wh-word to attribute, and the look-up.
#ifndef FSTQ_TASK_SYNTH_H
#define FSTQ_TASK_SYNTH_H

#include "base/rng.h"

#include <stdbool.h>
#include <stdint.h>

enum { SYNTH_VOCAB = 800, SYNTH_LANGUAGES = 8, SYNTH_TOPICS = 6, SYNTH_DOC_TOKENS = 49 };
enum { SYNTH_PAD, SYNTH_BOS, SYNTH_EOS, SYNTH_Q, SYNTH_ANS, SYNTH_DOT };
enum { SYNTH_USED = 787, SYNTH_UNK = SYNTH_USED }; // ids from SYNTH_USED on never occur in text

enum synth_kind { SYNTH_QA, SYNTH_MEDICAL, SYNTH_LONG };

// One document of the base model's corpus: SYNTH_DOC_TOKENS ids, the first BOS. weight[i] is how
// much predicting tokens[i] counts: 0 for BOS, little where facts are stated for the first time
// (fresh draws, nothing to learn but grammar), 1 where they are restated; with equal weights it
// takes twice the documents to learn to copy. A stream per document, rng_stream(seed, RNG_PRETRAIN,
// step, index in the batch, 0), repeats on any number of threads.
void synth_pretrain_doc(struct rng *r, int32_t *tokens, float *weight);
// Which tokens of a document are values restated from earlier in it: is_copy[i] says so for
// tokens[i]. The accuracy on them tells when the base has learned to copy.
void synth_pretrain_copies(const int32_t *tokens, uint8_t *is_copy);

struct synth_example {
    int32_t tokens[64];
    int32_t n, answer; // as in struct example
    int32_t label;     // yes, no, maybe for SYNTH_MEDICAL, else -1
};

// group is the language, or the topic of SYNTH_MEDICAL.
void synth_example(enum synth_kind kind, struct rng *r, int32_t group, struct synth_example *out);

extern const char *const synth_languages[SYNTH_LANGUAGES];
extern const char *const synth_classes[3]; // "yes", "no", "maybe"
int32_t synth_class_id(int32_t c);
int32_t synth_language_of(int32_t id);                  // SYNTH_LANGUAGES = the medical block
const char *synth_word(int32_t id);                     // the spelling, UTF-8; "" for PAD
const char *synth_spaced(int32_t id);                   // " word"
int32_t synth_find(const char *word, uint32_t n_bytes); // its id, or -1

#endif
