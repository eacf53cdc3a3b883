// A whole federation in a test's own process: server, workers and loop over a simulated transport,
// under a config given as "section.key=value". Rows that the server hands out are kept.
#ifndef FSTQ_FEDERATION_H
#define FSTQ_FEDERATION_H

#include "base/mem.h"
#include "config.h"
#include "fed/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEDERATION_ROUNDS   256
#define FEDERATION_MESSAGES 4096

struct federation {
    struct config cfg;
    struct transport transport;
    struct workload work;
    struct method method;
    struct profile_model profile;
    struct presence presence;
    struct recorder rec;
    struct fed_env env;
    struct fed_sink sink;
    struct loop loop;
    volatile sig_atomic_t stop;
    int stop_after; // rounds, 0 = never
    int n_rounds, n_messages;
    struct rec_round round[FEDERATION_ROUNDS];
    struct rec_message message[FEDERATION_MESSAGES];
};

static inline void federation_rows(void *arg, enum record_id id, const void *rows, size_t n)
{
    struct federation *f = arg;
    const struct rec_message *m = rows;
    for (size_t i = 0; id == REC_MESSAGES && i < n && f->n_messages < FEDERATION_MESSAGES; i++)
        f->message[f->n_messages++] = m[i];
    if (id == REC_ROUNDS && f->n_rounds < FEDERATION_ROUNDS)
        f->round[f->n_rounds++] = *(const struct rec_round *)rows;
}

static inline void federation_commit(void *arg, int32_t version)
{
    struct federation *f = arg;
    if (f->stop_after && version >= f->stop_after)
        f->stop = 1;
}

static inline void federation_progress(void *arg, const struct rec_round *row)
{
    (void)arg;
    (void)row;
}

// In place of the method's, where a test brings a scheme of its own.
static const struct scheme *federation_scheme;
// Sees every update before it is compressed; NULL = nobody does.
static void (*federation_update)(void *arg, uint32_t version, uint32_t client,
                                 const struct shape *s, const float *x, const float *adapter);

// 0, or -1 with err. What it makes is federation_close's to free, also after a failure.
static inline int federation_open(struct federation *f, int n, const char *const *keys,
                                  struct err *err)
{
    memset(f, 0, sizeof *f);
    config_defaults(&f->cfg);
    for (int i = 0; i < n; i++) {
        char name[64];
        size_t len = strcspn(keys[i], "=");
        snprintf(name, sizeof name, "%.*s", (int)len, keys[i]);
        if (config_set(&f->cfg, name, keys[i] + len + 1, err))
            return -1;
    }
    if (config_set(&f->cfg, "net.transport", "sim", err) || config_check(&f->cfg, err))
        return -1;
    uint64_t seed = (uint64_t)f->cfg.run.seed;
    struct workload_env work = {.fed = &f->cfg.fed,
                                .fisher = &f->cfg.fisher,
                                .task = &f->cfg.task,
                                .model = &f->cfg.model,
                                .optim = &f->cfg.optim,
                                .dev_kind = config_dev_kind(&f->cfg),
                                .threads = 1,
                                .seed = seed,
                                .server = true,
                                .worker = true};
    recorder_init(&f->rec, 4096, 0, false);
    if (transport_open(&f->transport, &f->cfg.net, seed, err) ||
        workload_open(&f->work, &work, err) ||
        profile_open(&f->profile, &f->cfg.client, seed, err) ||
        presence_open(&f->presence, &f->cfg.client, seed, err) ||
        method_open(&f->method, f->cfg.fed.method, &f->work.shape, err))
        return -1;
    if (federation_scheme)
        f->method.scheme = federation_scheme;
    f->env = (struct fed_env){.fed = &f->cfg.fed,
                              .client = &f->cfg.client,
                              .profile = &f->profile,
                              .presence = &f->presence,
                              .net = &f->cfg.net,
                              .seed = seed,
                              .config_hash = config_hash(&f->cfg),
                              .run_dir = f->cfg.run.dir,
                              .resume = f->cfg.run.resume,
                              .virtual_time = true,
                              .threads = 1,
                              .host = "here",
                              .cpuset = "",
                              .gpu = "",
                              .transport = &f->transport,
                              .link = &f->transport.link,
                              .backhaul = &f->transport.relay_link,
                              .work = &f->work,
                              .method = &f->method,
                              .rec = &f->rec,
                              .update = federation_update,
                              .update_arg = f};
    f->sink = (struct fed_sink){f, federation_rows, federation_commit, federation_progress};
    return fed_prepare(&f->env, err) ? -1 : loop_open(&f->loop, &f->env, &f->sink, 4096, err);
}

static inline void federation_run(struct federation *f)
{
    loop_run(&f->loop, &f->stop);
}

static inline void federation_close(struct federation *f)
{
    if (f->loop.env)
        loop_close(&f->loop);
    method_close(&f->method);
    profile_close(&f->profile);
    presence_close(&f->presence);
    if (f->work.row)
        workload_close(&f->work);
    if (f->transport.row)
        transport_close(&f->transport, true);
    recorder_free(&f->rec);
}

#endif
