// Scores of the vocabulary, where nobody has learned them yet: what clients of a federation would
// send once, floats by vocabulary id.
#include "base/mem.h"
#include "base/rng.h"
#include "bench/infer.h"
#include "fed/lm.h"

// One client's minibatches, which are drawn as training draws them.
static void learn_client(struct token_scores *own, const struct config *c, struct model *m,
                         struct task *task, struct model_client *client, struct lm_batch *b,
                         float *embed_grad)
{
    struct model_job job = {.batch = &b->batch, .client = client, .embed_grad = embed_grad};
    struct rng rng = rng_stream((uint64_t)c->run.seed, RNG_INFER, (uint32_t)client->id, 0, 1);
    const struct examples *examples = task_client(task, client->id);
    for (int32_t s = 0; s < c->infer.score_steps && examples->n > 0; s++) {
        lm_batch_draw(b, examples, c->fed.batch, &rng);
        model_backward(m, &job, 1, NULL);
        token_scores_add(own, &b->batch, embed_grad, model_config(m)->dim, c->fisher.rho);
    }
    task_forget(task, client->id);
}

void infer_learn(struct token_scores *all, const struct config *c, struct model *m,
                 struct task *task, const float *adapter, FILE *say)
{
    size_t n = model_shape(m)->n_values, dim = (size_t)model_config(m)->dim;
    size_t rows = (size_t)c->fed.batch * (size_t)task->max_tokens;
    int32_t clients =
        task->clients < c->infer.score_clients ? task->clients : c->infer.score_clients;
    struct lm_batch b;
    struct token_scores own;
    float *theta = mem_alloc(MEM_ADAPTER, (n + KERNEL_SLACK) * sizeof *theta);
    float *embed_grad = mem_alloc(MEM_OTHER, rows * dim * sizeof *embed_grad);
    lm_batch_open(&b, c->fed.batch, task->max_tokens);
    model_init_adapter(m, 1, theta); // adds nothing
    for (size_t i = 0; adapter && i < n; i++)
        theta[i] = adapter[i];
    token_scores_open(all, model_config(m)->vocab);
    for (int32_t k = 0; k < clients; k++) {
        struct model_client client = {.id = k, .adapter = theta};
        token_scores_open(&own, all->vocab);
        model_load(m, &client, 0);
        learn_client(&own, c, m, task, &client, &b, embed_grad);
        model_store(m, &client);
        token_scores_join(all, &own);
        token_scores_close(&own);
    }
    fprintf(
        say,
        "# token scores learned from %d clients, %d minibatches of %d each: %d of %d ids seen\n",
        clients, c->infer.score_steps, c->fed.batch, token_scores_finish(all), all->vocab);
    lm_batch_close(&b);
    mem_free(embed_grad);
    mem_free(theta);
}
