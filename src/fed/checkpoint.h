// The server's state after a round, in two generations that are replaced atomically in turn. What
// cannot be verified (length, hash) does not exist; the other generation is taken then.
#ifndef FSTQ_FED_CHECKPOINT_H
#define FSTQ_FED_CHECKPOINT_H

#include "base/check.h"
#include "fed/slots.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Totals that a resumed run goes on counting.
#define CHECKPOINT_TOTALS 9
struct checkpoint_totals {
    int64_t uplink_bytes, downlink_bytes, control_bytes, control_up_bytes, wire_bytes;
    int64_t modelled_ns, measured_ns;
    int64_t lost, rejected; // updates lost other than by configured dropout; updates refused
};

struct checkpoint {
    uint64_t config_hash, run_id, registry;
    uint32_t round;               // rounds committed
    size_t n;                     // values of the adapter
    size_t n_state;               // floats of the scheme's state
    size_t n_slots;               // clients whose state is in slots, 0 = clients keep none
    uint32_t n_batteries;         // clients whose batteries are kept, 0 = they have none
    size_t n_more;                // 32-bit words of the scheme's handlers, 0 = none
    double first_loss, last_loss; // mean training losses, NAN = no round had one
    struct checkpoint_totals totals;
};

// What a checkpoint holds; slots names the state that each client goes on from.
struct checkpoint_data {
    float *theta, *state;   // (n), (n_state)
    struct slot_gen *slots; // (n_slots)
    double *battery;        // (n_batteries)
    uint8_t *more;          // (4 * n_more)
};

size_t checkpoint_bytes(const struct checkpoint *c);
// buf: checkpoint_bytes of scratch, so that rounds allocate nothing.
int checkpoint_write(const char *dir, const struct checkpoint *c, const struct checkpoint_data *d,
                     uint8_t *buf, struct err *err);
// The newest generation that verifies. d is filled, its `more` a new block for mem_free; c says
// what is expected (config_hash, registry, n, n_state, n_slots, n_batteries) and receives the rest.
// Returns 1 = restored, 0 = nothing there to restore, -1 with err: there is one, but of another
// config or shape, or none that verifies.
int checkpoint_read(const char *dir, struct checkpoint *c, struct checkpoint_data *d,
                    struct err *err);
// Only the adapter of the newest sound generation, whatever the configuration was.
int checkpoint_adapter(const char *dir, uint64_t registry, size_t n, float *theta, uint32_t *round,
                       struct err *err);
bool checkpoint_present(const char *dir); // is there any, sound or not?
// One generation from bytes; for the tests and the fuzzer. body: floats of theta and state, then
// the slots, the batteries and the handlers' words. Returns 0 or -1 with err.
int checkpoint_parse(const uint8_t *bytes, size_t len, struct checkpoint *c, const uint8_t **body,
                     struct err *err);

#endif
