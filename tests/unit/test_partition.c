// Partitions: what each kind promises, and that they repeat.
#include "base/rng.h"
#include "task/partition.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { ITEMS = 600, LABELS = 4, CLIENTS = 20 };

static int32_t label[ITEMS], owner[ITEMS], again[ITEMS];

static int setup(void **state)
{
    (void)state;
    for (int32_t i = 0; i < ITEMS; i++)
        label[i] = i % LABELS;
    return 0;
}

static void count(int32_t n[CLIENTS][LABELS], int32_t size[CLIENTS])
{
    memset(n, 0, sizeof(int32_t[CLIENTS][LABELS]));
    memset(size, 0, sizeof(int32_t[CLIENTS]));
    for (int32_t i = 0; i < ITEMS; i++) {
        assert_in_range(owner[i], 0, CLIENTS - 1);
        n[owner[i]][label[i]]++;
        size[owner[i]]++;
    }
}

static void specs(void **state)
{
    (void)state;
    struct partition p = {0};
    struct err e = {0};
    assert_int_equal(partition_parse(&p, "iid", &e), 0);
    assert_int_equal(p.kind, PARTITION_IID);
    assert_int_equal(partition_parse(&p, "dirichlet", &e), 0);
    assert_int_equal(p.kind, PARTITION_DIRICHLET);
    assert_string_equal(p.field, "");
    assert_int_equal(partition_parse(&p, "dirichlet:answer", &e), 0);
    assert_string_equal(p.field, "answer");
    assert_int_equal(partition_parse(&p, "field:collection", &e), 0);
    assert_int_equal(p.kind, PARTITION_FIELD);
    static const char *const wrong[] = {"",       "IID",   "iid:x",      "field",
                                        "field:", "dir:x", "dirichlet:", "fields:x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        e.text[0] = 0;
        assert_int_equal(partition_parse(&p, wrong[i], &e), -1);
        assert_non_null(strstr(e.text, "task.partition"));
    }
}

static void iid_is_even(void **state)
{
    (void)state;
    int32_t n[CLIENTS][LABELS], size[CLIENTS];
    struct partition p = {.kind = PARTITION_IID, .seed = 1, .clients = CLIENTS};
    assert_int_equal(partition_assign(&p, label, ITEMS, LABELS, owner, NULL), 0);
    count(n, size);
    for (int k = 0; k < CLIENTS; k++) {
        assert_int_equal(size[k], ITEMS / CLIENTS);
        for (int l = 0; l < LABELS; l++)
            assert_in_range(n[k][l], 1, 16); // 7.5 on average
    }
}

// The largest label's mean share of a client, and the smallest client.
static double skew(double alpha, int32_t *smallest)
{
    int32_t n[CLIENTS][LABELS], size[CLIENTS];
    struct partition p = {
        .kind = PARTITION_DIRICHLET, .alpha = alpha, .seed = 1, .clients = CLIENTS};
    assert_int_equal(partition_assign(&p, label, ITEMS, LABELS, owner, NULL), 0);
    assert_int_equal(partition_assign(&p, label, ITEMS, LABELS, again, NULL), 0);
    assert_memory_equal(owner, again, sizeof owner);
    count(n, size);
    double share = 0;
    *smallest = ITEMS;
    for (int k = 0; k < CLIENTS; k++) {
        int32_t most = 0;
        for (int l = 0; l < LABELS; l++)
            most = n[k][l] > most ? n[k][l] : most;
        share += (double)most / size[k] / CLIENTS;
        *smallest = size[k] < *smallest ? size[k] : *smallest;
    }
    return share;
}

static void dirichlet_skews_with_alpha(void **state)
{
    (void)state;
    int32_t smallest;
    double sharp = skew(0.1, &smallest);
    assert_true(smallest >= 1); // nobody is left without data
    double middle = skew(1, &smallest), flat = skew(1000, &smallest);
    assert_true(sharp > 0.75);
    assert_true(middle > 0.4 && middle < sharp);
    assert_true(flat < 0.35);
    assert_true(smallest > 20); // 30 on average
}

static void fields_are_clients(void **state)
{
    (void)state;
    struct partition p = {.kind = PARTITION_FIELD, .field = "x", .seed = 1, .clients = LABELS};
    struct err e = {0};
    assert_int_equal(partition_assign(&p, label, ITEMS, LABELS, owner, &e), 0);
    assert_memory_equal(owner, label, sizeof owner);
    p.clients = 3;
    assert_int_equal(partition_assign(&p, label, ITEMS, LABELS, owner, &e), -1);
    assert_non_null(strstr(e.text, "fed.clients = 4"));
}

static void too_few_items(void **state)
{
    (void)state;
    struct partition p = {.kind = PARTITION_IID, .seed = 1, .clients = 5};
    struct err e = {0};
    assert_int_equal(partition_assign(&p, label, 4, LABELS, owner, &e), -1);
    assert_non_null(strstr(e.text, "fed.clients = 5"));
    p.kind = PARTITION_DIRICHLET;
    p.alpha = 0.01;
    assert_int_equal(partition_assign(&p, label, 5, LABELS, owner, &e), 0);
    for (int32_t k = 0; k < 5; k++) { // one each
        int32_t n = 0;
        for (int32_t i = 0; i < 5; i++)
            n += owner[i] == k;
        assert_int_equal(n, 1);
    }
}

static void mixtures_are_shares(void **state)
{
    (void)state;
    double mix[8];
    struct partition p = {.kind = PARTITION_DIRICHLET, .alpha = 0.1, .seed = 3, .clients = CLIENTS};
    double top = 0;
    for (int32_t k = 0; k < CLIENTS; k++) {
        double sum = 0, most = 0;
        partition_mixture(&p, k, 8, mix);
        for (int i = 0; i < 8; i++) {
            assert_true(mix[i] >= 0);
            sum += mix[i];
            most = mix[i] > most ? mix[i] : most;
        }
        assert_true(fabs(sum - 1) < 1e-12);
        top += most / CLIENTS;
    }
    assert_true(top > 0.6);
    p.kind = PARTITION_FIELD;
    partition_mixture(&p, 5, 8, mix);
    assert_true(mix[5] == 1 && mix[4] == 0);
    p.kind = PARTITION_IID;
    partition_mixture(&p, 5, 8, mix);
    assert_true(mix[5] == 0.125);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs),
        cmocka_unit_test(iid_is_even),
        cmocka_unit_test(dirichlet_skews_with_alpha),
        cmocka_unit_test(fields_are_clients),
        cmocka_unit_test(too_few_items),
        cmocka_unit_test(mixtures_are_shares),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
