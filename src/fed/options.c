// The options of [fed], [client] and [fisher], and what goes together.
#include "fed/fed.h"
#include "fed/policy.h"
#include "fed/presence.h"
#include "fed/profile.h"
#include "fed/ranks.h"

static const char *const weight_names[] = {
    [FED_WEIGHTS_SAMPLES] = "samples", [FED_WEIGHTS_EQUAL] = "equal", NULL};
static const char *const ranks_names[] = {
    [FED_RANKS_DRAW] = "draw", [FED_RANKS_DEVICE] = "device", NULL};
static const char *const rest_names[] = {
    [FED_REST_CUT] = "cut", [FED_REST_FROZEN] = "frozen", NULL};
static const char *const down_names[] = {
    [FED_DOWN_CHANGE] = "change", [FED_DOWN_VERSION] = "version", NULL};
static const char *const average_names[] = {"none", "ema", "last", NULL};
static const char *const evaluate_names[] = {"global", "personal", NULL};
static const char *const sum_names[] = {"order", "exact", NULL};
static const char *const state_names[] = {
    [FED_STATE_RESET] = "reset", [FED_STATE_KEEP] = "keep", NULL};

const struct opt fed_options[] = {
    OPT_STRING(struct fed_params, method, "fed.method", "fedavg/fp32",
               "SCHEME[:opts][~TOKENS[:opts]]/[VIEW[:opts]@]CODEC[:opts][+WRAPPER[:opts]...]"
               "[;CODEC...]"),
    OPT(struct fed_params, clients, "fed.clients", "100", 1, 1e7, "", "clients registered"),
    OPT(struct fed_params, clients_per_round, "fed.clients_per_round", "10", 1, 1e6, "",
        "clients sampled per round"),
    OPT(struct fed_params, rounds, "fed.rounds", "30", 1, 1e7, "", "rounds"),
    OPT(struct fed_params, local_steps, "fed.local_steps", "20", 1, 1e6, "",
        "optimizer steps of a client per round"),
    OPT(struct fed_params, local_steps_min, "fed.local_steps_min", "0", 0, 1e6, "",
        "clients do unequal work: each round each makes at random between so many steps and "
        "fed.local_steps; 0 = all make fed.local_steps"),
    OPT(struct fed_params, batch, "fed.batch", "4", 1, 65536, "examples",
        "examples per local step"),
    OPT(struct fed_params, uplink_per_round, "fed.uplink_per_round", "0", 0, 1e15, "bytes",
        "the clients sampled in a round share so many bytes of uplink evenly: messages keep to "
        "their part where the codec can; 0 = as the codec's options say"),
    OPT(struct fed_params, dropout, "fed.dropout", "0", 0, 1, "",
        "probability that a sampled client is unavailable, independent per client and round"),
    OPT(struct fed_params, deadline_s, "fed.deadline_s", "0", 0, 1e9, "s",
        "a round ends after so long, and later updates are late; 0 = never. Times are modelled, "
        "but "
        "measured where net.pace = real"),
    OPT(struct fed_params, quorum, "fed.quorum", "0", 0, 1e6, "",
        "a round ends with so many updates; below 1 a part of fed.clients_per_round; 0 = with all "
        "that report, or with fed.clients_per_round where more are sampled"),
    OPT(struct fed_params, overcommit, "fed.overcommit", "1", 1, 100, "",
        "clients sampled, as a multiple of fed.clients_per_round"),
    OPT(struct fed_params, min_completion, "fed.min_completion", "0", 0, 1, "",
        "with fewer updates than this part of fed.clients_per_round the model stays as it is"),
    OPT(struct fed_params, late_weight, "fed.late_weight", "0", 0, 1, "",
        "late updates count with their weight times this to the power of the rounds they are late; "
        "0 = they are discarded"),
    OPT(struct fed_params, server_lr, "fed.server_lr", "1", 0, 1e3, "",
        "server step on the mean update"),
    OPT(struct fed_params, server_lr_end, "fed.server_lr_end", "-1", -1, 1e3, "",
        "server step of the last round, reached linearly over the second half; -1 = constant"),
    OPT_STRING(struct fed_params, downlink, "fed.downlink", "",
               "CODEC[:opts][+ef]: versions travel down as coded changes, and the server goes on "
               "from what clients decode; empty = as floats"),
    OPT_ENUM(struct fed_params, down_of, "fed.downlink_of", "change", down_names,
             "what fed.downlink codes: the change of a version, which the server then takes as it "
             "is decoded, or the version itself, anew each round, which the server keeps whole"),
    OPT_ENUM(struct fed_params, average, "fed.average", "none", average_names,
             "what is evaluated: the version; a moving average of versions; the mean of those of "
             "the last fed.average_last rounds. Training goes on from the version"),
    OPT(struct fed_params, average_decay, "fed.average_decay", "0.9", 0, 0.99999, "",
        "ema: weight of the average before"),
    OPT(struct fed_params, average_last, "fed.average_last", "10", 1, 1e6, "rounds",
        "last: of the run; before them the version is evaluated"),
    OPT_ENUM(struct fed_params, evaluate, "fed.evaluate", "global", evaluate_names,
             "who answers the test set: the server with the global model, or each client of the "
             "round with the model it has just trained, on the groups it has examples of, in their "
             "shares; the score is the clients' mean, and the measured round takes that longer"),
    OPT_STRING(struct fed_params, ranks, "fed.ranks", "",
               "RANK:SHARE,...: clients of unequal rank, the largest that of the adapter, as in "
               "4:0.5,8:0.3,16:0.2; empty = all have that of the adapter"),
    OPT_ENUM(struct fed_params, ranks_by, "fed.ranks_by", "draw", ranks_names,
             "whose rank is small: drawn from the seed, or the slowest devices' of "
             "client.profile"),
    OPT_ENUM(struct fed_params, ranks_rest, "fed.ranks_rest", "cut", rest_names,
             "what a client of small rank has of the other ranks: nothing, as if they were zeros, "
             "or what the version has, which it does not train; then all of it travels down"),
    OPT_ENUM(struct fed_params, opt_state, "fed.opt_state", "reset", state_names,
             "optimizer state of a client between its rounds"),
    OPT_ENUM(struct fed_params, weights, "fed.weights", "samples", weight_names,
             "weights of clients in the mean: their number of examples, or equal (FedPAQ)"),
    OPT_ENUM(
        struct fed_params, sum, "fed.sum", "order", sum_names,
        "of updates, order: in float, client after client; exact: in integers of 128 bits, the "
        "same in any order and grouping"),
    OPT(struct fed_params, relays, "fed.relays", "0", 0, 65536, "",
        "edge servers, each of clients k, k + relays, ...: they add up what comes and send one "
        "message on; 0 = clients send to the server itself. Needs fed.sum = exact"),
    OPT(struct fed_params, eval_every, "fed.eval_every", "1", 0, 1e6, "rounds",
        "evaluate after every N-th round and after the last; 0 = only after the last"),
    OPT(struct fed_params, eval_last, "fed.eval_last", "1", 1, 1e6, "rounds",
        "also evaluate after each of the last N rounds"),
    OPT(struct fed_params, server_ns, "fed.server_ns", "0", 0, 1e15, "ns",
        "configured server time per round, a term of the modelled time"),
    OPT(struct fed_params, deliver, "fed.deliver", "off", 0, 0, "",
        "when the last version is made every client is sent it, as floats, or what else its server "
        "trained; in the last round's downlink and modelled time"),
    OPT(struct fed_params, nmse, "fed.nmse", "on", 0, 0, "",
        "clients decode their own message to report its error, outside every measured span"),
};
const int fed_option_count = ARRAY_LEN(fed_options);

const struct opt client_options[] = {
    OPT(struct client_params, step_ns, "client.step_ns", "0", 0, 1e15, "ns",
        "configured compute of one local step, a term of the modelled time; 0 = not modelled"),
    OPT(struct client_params, encode_ns, "client.encode_ns", "0", 0, 1e15, "ns",
        "configured time to compress one update, a term of the modelled time"),
    OPT_STRING(struct client_params, profile, "client.profile", "same",
               "what devices clients are, NAME[:key=value,...] of fstq list devices"),
    OPT_STRING(struct client_params, table, "client.table", "",
               "client.profile = table: a file of devices"),
    OPT_STRING(struct client_params, availability, "client.availability", "always",
               "when a sampled client is there, on the modelled clock: always, "
               "day:on=PART,period=SECONDS, onoff:share=PART,stay=SECONDS or trace"),
    OPT_STRING(struct client_params, presence, "client.presence", "",
               "client.availability = trace: a file of 'period SECONDS', then a line per device: "
               "FROM-TO FROM-TO ..., the seconds in which it is there"),
    OPT(struct client_params, battery_j, "client.battery_j", "0", 0, 1e12, "J",
        "a client with an empty battery is not there; 0 = none has a battery"),
    OPT(struct client_params, charge_w, "client.charge_w", "0", 0, 1e6, "W",
        "flows into a battery all the time, up to client.battery_j"),
    OPT(struct client_params, compute_w, "client.compute_w", "-1", -1, 1e6, "W",
        "power while a client computes, a term of its modelled energy; -1 = as its device has it"),
    OPT(struct client_params, send_w, "client.send_w", "-1", -1, 1e6, "W",
        "power while it sends; -1 = as its device has it"),
    OPT(struct client_params, dp_clip, "client.dp_clip", "0", 0, 1e12, "",
        "updates are scaled to at most this L2 norm before they are compressed; 0 = off"),
    OPT(struct client_params, dp_sigma, "client.dp_sigma", "0", 0, 1e6, "",
        "Gaussian noise on a clipped update, in units of client.dp_clip"),
};
const int client_option_count = ARRAY_LEN(client_options);

static const char *const accumulate_names[] = {
    [FISHER_EMA] = "ema", [FISHER_SUM] = "sum", [FISHER_ORACLE] = "oracle", NULL};

const struct opt fisher_options[] = {
    OPT(struct fisher_params, rho, "fisher.rho", "0.9", 0, 0.999999, "",
        "decay of the diagonal Fisher and of the gradient's average"),
    OPT_ENUM(struct fisher_params, accumulate, "fisher.accumulate", "ema", accumulate_names,
             "diagonal Fisher: moving average (the paper's 19) or sum (20) of a round's squared "
             "gradients; oracle: "
             "mean square of each example's gradient, over all of the client's, after training"),
    OPT_ENUM(struct fisher_params, persist, "fisher.persist", "reset", state_names,
             "averages of gradients and of token scores of a client between its rounds"),
    OPT(struct fisher_params, scores, "fisher.scores", "0", 0, 1e7, "rounds",
        "in every N-th round, and in the last, clients also send what tokens of the vocabulary "
        "are worth, for fstq infer; 0 = never"),
};
const int fisher_option_count = ARRAY_LEN(fisher_options);

int fed_check(const struct fed_params *p, struct err *err)
{
    if (p->clients_per_round > p->clients)
        return err_set(err,
                       "fed.clients_per_round = %d exceeds fed.clients = %d; lower the first or "
                       "raise the second",
                       p->clients_per_round, p->clients);
    if (p->local_steps_min > p->local_steps)
        return err_set(err,
                       "fed.local_steps_min = %d exceeds fed.local_steps = %d; lower the first or "
                       "raise the second",
                       p->local_steps_min, p->local_steps);
    if (policy_quorum(p) > policy_sampled(p))
        return err_set(err,
                       "fed.quorum = %g: only %d clients are sampled; lower it, or raise "
                       "fed.clients_per_round or fed.overcommit",
                       p->quorum, policy_sampled(p));
    if (p->late_weight > 0 && policy_waits(p))
        return err_set(err,
                       "fed.late_weight = %g: nobody is late without fed.deadline_s, "
                       "fed.quorum or fed.overcommit",
                       p->late_weight);
    if (p->down_of == FED_DOWN_VERSION && !*p->downlink)
        return err_set(err, "fed.downlink_of = version: there is no codec for it; set "
                            "fed.downlink, as in topk:ratio=0.25");
    if (p->evaluate == FED_EVALUATE_PERSONAL && p->average != FED_AVERAGE_NONE)
        return err_set(err, "fed.average is of the server's versions, and with fed.evaluate = "
                            "personal clients evaluate their own models; set one of the two back");
    struct ranks ranks;
    if (*p->ranks && ranks_parse(p->ranks, &ranks, err))
        return -1;
    if (p->server_lr_end < 0 && p->server_lr_end != -1)
        return err_set(err, "fed.server_lr_end = %g: it is -1 (constant) or at least 0",
                       p->server_lr_end);
    return 0;
}

int client_check(const struct client_params *p, struct err *err)
{
    struct profile_model profile;
    struct presence presence;
    if (profile_open(&profile, p, 0, err))
        return -1;
    profile_close(&profile);
    if (presence_open(&presence, p, 0, err))
        return -1;
    presence_close(&presence);
    if (p->charge_w > 0 && p->battery_j <= 0)
        return err_set(err, "client.charge_w = %g without a battery; set client.battery_j",
                       p->charge_w);
    if (p->dp_sigma > 0 && p->dp_clip <= 0)
        return err_set(err,
                       "client.dp_sigma = %g without a norm to measure it in; set client.dp_clip",
                       p->dp_sigma);
    return 0;
}
