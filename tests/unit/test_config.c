#include "config.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/fstq-test-config-XXXXXX";
static char said[1 << 16]; // what the last load wrote to stderr

static void write_file(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static int load(struct config *c, const char *file, int n, char *const *overrides)
{
    FILE *catcher = tmpfile();
    assert_non_null(catcher);
    fflush(stderr);
    int real = dup(2);
    dup2(fileno(catcher), 2);
    int mistakes = config_load(c, file, n, overrides);
    fflush(stderr);
    dup2(real, 2);
    close(real);
    rewind(catcher);
    said[fread(said, 1, sizeof said - 1, catcher)] = '\0';
    fclose(catcher);
    return mistakes;
}

static int load_text(struct config *c, const char *text)
{
    write_file(text, strlen(text));
    return load(c, path, 0, NULL);
}

// A line of stderr: "PATH:LINE: " and then the words.
static void said_at(int line, const char *words)
{
    char head[128];
    snprintf(head, sizeof head, "%s:%d: ", path, line);
    const char *at = strstr(said, head);
    if (!at || strncmp(at + strlen(head), words, strlen(words)))
        fail_msg("no '%s%s' in:\n%s", head, words, said);
}

static int lines_said(void)
{
    int n = 0;
    for (const char *p = said; *p; p++)
        n += *p == '\n';
    return n;
}

static void defaults_without_a_file(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(load(&c, NULL, 0, NULL), 0);
    assert_int_equal(lines_said(), 0);
    assert_int_equal(c.run.seed, 1);
    assert_string_equal(c.path, "");
}

// Each row is named after its section, has a default that parses and a word of help, and is told
// from the others; the fields of a section do not overlap.
static void rows_are_sound(void **state)
{
    (void)state;
    struct config c;
    config_defaults(&c);
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        assert_true(*s->n > 0);
        for (int k = 0; k < *s->n; k++) {
            const struct opt *row = &s->rows[k];
            size_t n = strlen(s->name);
            if (strncmp(row->name, s->name, n) || row->name[n] != '.')
                fail_msg("%s is not of [%s]", row->name, s->name);
            if (!row->help || !*row->help || !row->unit)
                fail_msg("%s has no help or unit", row->name);
            if (strlen(row->name) >= 64)
                fail_msg("%s does not fit a trace", row->name);
            const struct config_section *found;
            assert_ptr_equal(config_find(row->name, &found), row);
            assert_ptr_equal(found, s);
            assert_true(s->offset + row->offset + row->size <= sizeof c);
            for (int j = 0; j < k; j++)
                if (row->offset < s->rows[j].offset + s->rows[j].size &&
                    s->rows[j].offset < row->offset + row->size)
                    fail_msg("%s and %s share a field", row->name, s->rows[j].name);
        }
    }
}

static void file_then_overrides(void **state)
{
    (void)state;
    struct config c;
    const char text[] = "\xef\xbb\xbf# quick\r\nrun.dir = here\r\n\r\n[fed]\r\n  rounds = 12\r\n"
                        "\tclients = 1e1 ; ten\r\n[run]\r\nseed = 7";
    write_file(text, strlen(text));
    char *overrides[] = {"fed.rounds=13", "run.dir=there", "fed.rounds=14"};
    assert_int_equal(load(&c, path, 3, overrides), 0);
    assert_string_equal(said, "");
    assert_int_equal(c.fed.rounds, 14);
    assert_int_equal(c.fed.clients, 10);
    assert_string_equal(c.run.dir, "there");
    assert_int_equal(c.run.seed, 7);
    assert_string_equal(c.path, path);
}

static void every_mistake_at_once(void **state)
{
    (void)state;
    struct config c;
    const char text[] = "rounds = 3\n"
                        "fed.clients = 40\n"
                        "[fed]\n"
                        "round = 13\n"
                        "clients = 50\n"
                        "method = \"fedavg/raw\"\n"
                        "dropout = 0.1 # a tenth\n"
                        "just words\n"
                        "[fedd]\n"
                        "anything = 1\n"
                        "[net\n"
                        "also = ignored\n"
                        "[net] link = loopback\n"
                        "seed = 1\n"
                        "[trace]\n"
                        "journal = maybe\n"
                        "# in time\n"
                        "[run]\n"
                        "seed = 1x\n"
                        "seed\n"
                        "[a-section-with-a-name-longer-than-inih-keeps-whole]\n"
                        "[run]\n"
                        "resume = no\n"
                        "  more = values";
    write_file(text, strlen(text));
    char *overrides[] = {"fed.dropuot=1", "seed=3", "words", "=", "net.timeout_s=-1"};
    int n = load(&c, path, 5, overrides);

    said_at(1, "rounds: unknown key; did you mean fed.rounds?");
    said_at(4, "fed.round: unknown key; did you mean fed.rounds?");
    said_at(5, "fed.clients is given twice, first in line 2");
    said_at(6, "fed.method = \"fedavg/raw\": values are written without quotes");
    said_at(7, "fed.dropout = 0.1 # a tenth: a comment behind a value begins with ' ;'");
    said_at(8, "'just words': not 'key = value'");
    said_at(9, "[fedd]: unknown section; did you mean [fed]?");
    said_at(11, "'[net': a section without its closing bracket");
    said_at(13, "[net] is followed by 'link = loopback'");
    said_at(14, "net.seed: unknown key; did you mean run.seed?");
    said_at(16, "trace.journal = maybe: not a switch");
    said_at(19, "run.seed = 1x: not a whole number");
    said_at(20, "'seed': not 'key = value'");
    said_at(21, "[a-section-with-a-name-longer-th...]: unknown section");
    said_at(24, "run.more: unknown key"); // not more of the value above
    assert_non_null(strstr(said, "argument 1 (fed.dropuot=1): fed.dropuot: unknown key; did you "
                                 "mean fed.dropout?\n"));
    assert_non_null(strstr(said, "argument 2 (seed=3): seed: unknown key; did you mean run.seed?"));
    assert_non_null(strstr(said, "argument 3 (words): not section.key=value\n"));
    assert_non_null(strstr(said, "argument 4 (=): not section.key=value\n"));
    assert_non_null(
        strstr(said, "argument 5 (net.timeout_s=-1): net.timeout_s = -1: out of range"));
    assert_int_equal(n, 20);
    assert_int_equal(lines_said(), n);
}

static void not_every_one_of_many(void **state)
{
    (void)state;
    static char text[1 << 17];
    struct config c;
    size_t n = 0;
    for (int i = 0; i < 5000; i++)
        n += (size_t)sprintf(text + n, "[fed]\nround=3\n");
    write_file(text, n);
    assert_int_equal(load(&c, path, 0, NULL), 5000);
    assert_int_equal(lines_said(), 21);
    said_at(40, "fed.round: unknown key");
    assert_non_null(strstr(said, "fstq: and 4980 more mistakes"));
}

// Each value is right, together they are not; where one of them was set is said.
static void wrong_together(void **state)
{
    (void)state;
    struct config c;
    const char text[] = "[fed]\nclients = 8\nclients_per_round = 9\nmethod = fedavg/raww\n";
    assert_int_equal(load_text(&c, text), 2);
    said_at(3, "fed.clients_per_round = 9 exceeds");
    said_at(4, "fed.method = fedavg/raww: unknown codec");
    char *overrides[] = {"run.seed=2", "fed.clients_per_round=10", "fed.method=fedavg/fp32"};
    assert_int_equal(load(&c, path, 3, overrides), 1);
    assert_non_null(strstr(said, "argument 2: fed.clients_per_round = 10 exceeds"));
    assert_int_equal(load_text(&c, "[run]\nresume = on\n"), 1);
    said_at(2, "run.resume = on: run.dir is empty");
    assert_int_equal(load_text(&c, "[run]\nresume = on\ndir = there\n"), 0);
}

static void long_lines(void **state)
{
    (void)state;
    struct config c;
    char text[600];
    // 198 characters are what the distribution's inih takes whole.
    int n = snprintf(text, sizeof text, "[trace]\nfile = %0191d\n[fed]\nrounds = 11\n", 0);
    write_file(text, (size_t)n);
    assert_int_equal(load(&c, path, 0, NULL), 0);
    assert_int_equal(strlen(c.trace.file), 191);
    n = snprintf(text, sizeof text, "[trace]\nfile = %0192d\n[fed]\nrounds = 11\n", 0);
    write_file(text, (size_t)n);
    assert_int_equal(load(&c, path, 0, NULL), 1);
    said_at(2, "199 characters in one line; at most 198");
    assert_int_equal(c.fed.rounds, 11);
}

static void not_a_config(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(load(&c, "/nowhere/at/all.ini", 0, NULL), 1);
    assert_string_equal(said, "/nowhere/at/all.ini: No such file or directory\n");
    assert_int_equal(load(&c, "fed.rounds=3", 0, NULL), 1);
    assert_non_null(strstr(said, "overrides come after the config file"));
    assert_int_equal(load(&c, "/", 0, NULL), 1);
    assert_string_equal(said, "/: a directory; a config is a text file\n");
    assert_int_equal(load(&c, "/dev/null", 0, NULL), 1);
    assert_non_null(strstr(said, "not a regular file"));
    write_file("[fed]\nrounds = 1\0001\n", 19);
    assert_int_equal(load(&c, path, 0, NULL), 1);
    said_at(2, "not a text file: byte 17 has code 0");
    char long_path[400];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(load(&c, long_path, 0, NULL), 1);
    assert_non_null(strstr(said, "a path of 399 bytes"));
    write_file("", 0);
    assert_int_equal(load(&c, path, 0, NULL), 0);
}

static void one_rank_speaks(void **state)
{
    (void)state;
    struct config c;
    setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    assert_false(config_is_mouthpiece());
    assert_int_equal(load_text(&c, "[fed]\nround = 3\n"), 1);
    assert_string_equal(said, "");
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    assert_true(config_is_mouthpiece());
    assert_int_equal(load_text(&c, "[fed]\nround = 3\n"), 1);
    assert_int_equal(lines_said(), 1);
    unsetenv("OMPI_COMM_WORLD_RANK");
    setenv("SLURM_PROCID", "2", 1);
    assert_false(config_is_mouthpiece());
    unsetenv("SLURM_PROCID");
    assert_true(config_is_mouthpiece());
}

static void text_reads_back(void **state)
{
    (void)state;
    struct config c, d;
    struct err err = {""};
    assert_int_equal(load_text(&c, "[fed]\nrounds = 77\ndropout = 0.30000000000000004\n"
                                   "[run]\nseed = 12345\n[trace]\nfile =\njournal = off\n"),
                     0);
    memset(c.fed.method, 0, sizeof c.fed.method);
    memset(c.fed.method, 'm', sizeof c.fed.method - 1); // longer than a line of inih
    char *text = config_text(&c);
    assert_int_equal(config_apply_text(&d, text, &err), 0);
    assert_string_equal(d.fed.method, c.fed.method);
    assert_int_equal(d.fed.rounds, 77);
    assert_true(d.fed.dropout == 0.30000000000000004);
    assert_int_equal(d.run.seed, 12345);
    assert_false(d.trace.journal);
    assert_string_equal(d.trace.file, "");
    char *again = config_text(&d);
    assert_string_equal(again, text);
    mem_free(again);
    mem_free(text);

    assert_int_equal(config_apply_text(&d, "[fed]\nrounds : 3\n", &err), -1);
    assert_int_equal(config_apply_text(&d, "[fed]\nround = 3\n", &err), -1);
    assert_non_null(strstr(err.text, "fed.round"));
}

static void hash_of_what_decides(void **state)
{
    (void)state;
    struct config c;
    config_defaults(&c);
    uint64_t hash = config_hash(&c);
    config_defaults(&c);
    c.dev.threads = 3;
    c.dev.clients = 2;
    c.run.resume = true;
    c.run.slots = RUN_SLOTS_LOSE;
    strcpy(c.run.dir, "elsewhere");
    strcpy(c.trace.file, "other.h5");
    c.trace.journal = !c.trace.journal;
    assert_true(config_hash(&c) == hash);
    c.run.seed++;
    assert_true(config_hash(&c) != hash);
    c.run.seed--;
    c.fed.dropout += 1e-9;
    assert_true(config_hash(&c) != hash);
}

static int make_file(void **state)
{
    (void)state;
    static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < ARRAY_LEN(ranks); i++)
        unsetenv(ranks[i]);
    int fd = mkstemp(path);
    close(fd);
    return fd < 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_without_a_file),
        cmocka_unit_test(rows_are_sound),
        cmocka_unit_test(file_then_overrides),
        cmocka_unit_test(every_mistake_at_once),
        cmocka_unit_test(not_every_one_of_many),
        cmocka_unit_test(wrong_together),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(not_a_config),
        cmocka_unit_test(one_rank_speaks),
        cmocka_unit_test(text_reads_back),
        cmocka_unit_test(hash_of_what_decides),
    };
    return cmocka_run_group_tests_name("config", tests, make_file, remove_file);
}
