// Who holds which data: a Dirichlet mixture over a label, natural clients by a field, or IID.
#ifndef FSTQ_TASK_PARTITION_H
#define FSTQ_TASK_PARTITION_H

#include "base/check.h"

#include <stdint.h>

enum partition_kind { PARTITION_IID, PARTITION_DIRICHLET, PARTITION_FIELD };

struct partition {
    enum partition_kind kind;
    char field[48]; // "" = the task's own label
    double alpha;
    uint64_t seed;
    int32_t clients;
};

// "iid", "dirichlet", "dirichlet:FIELD" or "field:NAME" (task.partition).
int partition_parse(struct partition *p, const char *text, struct err *err);

// Generated data: the probability of each label at one client. FIELD gives client k label k.
void partition_mixture(const struct partition *p, int32_t client, int32_t n_labels, double *mix);

// A fixed pool: owner[i] of the item with label[i]. IID deals evenly; DIRICHLET cuts each label's
// items by proportions ~ Dir(alpha) over the clients, then every client without any takes one from
// the richest; FIELD gives label k to client k. An error when there are fewer items, or other
// labels, than clients.
int partition_assign(const struct partition *p, const int32_t *label, int32_t n, int32_t n_labels,
                     int32_t *owner, struct err *err);

#endif
