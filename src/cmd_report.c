// fstq report: one page about a comparison or about runs. The numbers come from here, as JSON;
// scripts/report.py draws them. Without Python the page has tables only.
#include "base/buildinfo.h"
#include "base/fsio.h"
#include "base/jsonw.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/table.h"
#include "cmd.h"
#include "report/page.h"
#include "report/paper.h"
#include "report/report.h"

#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS_MAX = 128, COMPARE_MAX = 256 << 20 };
static const char data_begins[] = "{\"schema\":\"fstq-report\"",
                  page_begins[] = "<!DOCTYPEhtml><!--fstqreport-->";

struct source { // a trace of which runs are shown
    struct trace_file f;
    char path[1100];
};

struct report {
    char out[1024], command[2048];
    bool plain, paper, figures, latex, markdown;
    char *compare_text; // what fstq compare wrote, NULL = none
    json_t *compare;
    char compare_path[1100];
    struct source *source[RUNS_MAX];
    int n_sources;
    struct page_run run[RUNS_MAX];
    char label[RUNS_MAX][160];
    int n_runs, missing;
    bool damaged;
};

// Gathering.

static struct source *add_source(struct report *r, const char *path, struct err *err)
{
    if (r->n_sources == RUNS_MAX) {
        err_set(err, "more than %d traces for one report", (int)RUNS_MAX);
        return NULL;
    }
    struct source *s = mem_alloc(MEM_OTHER, sizeof *s);
    snprintf(s->path, sizeof s->path, "%s", path);
    if (trace_read_guarded(path, &s->f, err) < 0) {
        mem_free(s);
        return NULL;
    }
    r->damaged |= s->f.damaged > 0;
    r->source[r->n_sources++] = s;
    return s;
}

static void add_run(struct report *r, const struct source *s, int32_t run, const char *label)
{
    if (r->n_runs == RUNS_MAX)
        return;
    int i = r->n_runs++;
    snprintf(r->label[i], sizeof r->label[i], "%s", label);
    r->run[i] = (struct page_run){r->label[i], s->path, &s->f, run};
}

static const char *short_method(const struct trace_file *f, int32_t run)
{
    for (int i = 0; i < f->n_config && report_run_count(f) == 1; i++)
        if (strcmp(f->config[i].name, "fed.method") == 0 && *f->config[i].text)
            return f->config[i].text;
    return report_method(f, run);
}

static int add_trace(struct report *r, const char *path, struct err *err)
{
    struct source *s = add_source(r, path, err);
    if (!s)
        return -1;
    for (size_t i = 0; i < report_run_count(&s->f); i++) {
        int32_t run = report_run_id(&s->f, i);
        const char *method = short_method(&s->f, run);
        char label[160];
        snprintf(label, sizeof label, "%.150s", *method ? method : path);
        for (int k = 0; k < r->n_runs; k++)
            if (strcmp(r->label[k], label) == 0) {
                snprintf(label, sizeof label, "%.120s (%d)", *method ? method : path,
                         r->n_runs + 1);
                break;
            }
        add_run(r, s, run, label);
    }
    return 0;
}

static bool is_key(const char *key)
{
    return key && strlen(key) == 16 && strspn(key, "0123456789abcdef") == 16;
}

// Of each method the first run that lies there.
static void add_methods(struct report *r, const char *dir)
{
    size_t i, k;
    json_t *method, *run;
    struct err err;
    char path[1100];
    json_array_foreach(json_object_get(r->compare, "methods"), i, method)
    {
        const char *name = json_string_value(json_object_get(method, "name"));
        struct source *s = NULL;
        json_array_foreach(json_object_get(method, "runs"), k, run)
        {
            const char *key = json_string_value(json_object_get(run, "key"));
            if (!is_key(key) || s)
                continue;
            snprintf(path, sizeof path, "%s/runs/%s.h5", dir, key);
            if (access(path, R_OK) == 0)
                s = add_source(r, path, &err);
        }
        if (s)
            add_run(r, s, report_run_id(&s->f, 0), name ? name : "");
        else
            r->missing++;
    }
}

// What fstq compare wrote, or a bench where one may be; NULL = it is none.
static json_t *read_comparison(const char *path, bool bench, struct err *err)
{
    uint8_t *bytes;
    size_t n;
    json_error_t where;
    if (fsio_read(path, COMPARE_MAX, MEM_OTHER, &bytes, &n, err))
        return NULL;
    json_t *doc = json_loadb((const char *)bytes, n, JSON_REJECT_DUPLICATES, &where);
    mem_free(bytes);
    const json_t *first = json_array_get(json_object_get(doc, "methods"), 0);
    if (!doc)
        err_set(err, "%s:%d: %s", path, where.line, where.text);
    else if (bench && json_is_array(json_object_get(doc, "benchmarks")))
        return doc;
    else if (!json_is_array(json_object_get(doc, "methods")))
        err_set(err, "%s: no \"methods\" in it; it takes what fstq compare CONFIG --json writes",
                path);
    else if (json_is_object(first) && !json_object_get(first, "curve") &&
             !json_object_get(first, "verdict"))
        err_set(err, "%s: of an fstq before 0.2; fstq compare writes it anew from its runs", path);
    else
        return doc;
    json_decref(doc);
    return NULL;
}

static int add_comparison(struct report *r, const char *path, struct err *err)
{
    r->compare = read_comparison(path, false, err);
    if (!r->compare)
        return -1;
    r->compare_text = json_dumps(r->compare, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    snprintf(r->compare_path, sizeof r->compare_path, "%s", path);
    char copy[1100];
    snprintf(copy, sizeof copy, "%s", path);
    add_methods(r, dirname(copy));
    return 0;
}

static int add_folder(struct report *r, const char *dir, struct err *err)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/compare.json", dir);
    if (access(path, R_OK) == 0)
        return add_comparison(r, path, err);
    struct dirent **entry;
    int n = scandir(dir, &entry, NULL, alphasort), found = 0, bad = 0;
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(entry[i]->d_name, '.');
        if (dot && strcmp(dot, ".h5") == 0 && !bad) {
            snprintf(path, sizeof path, "%s/%s", dir, entry[i]->d_name);
            bad = add_trace(r, path, err);
            found++;
        }
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    if (!found)
        return err_set(err,
                       "%s: neither compare.json, which fstq compare leaves there at its end, nor "
                       "a trace (*.h5) in it",
                       dir);
    return bad;
}

static int add_argument(struct report *r, const char *path, struct err *err)
{
    struct stat st;
    size_t n = strlen(path);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return add_folder(r, path, err);
    if (n > 5 && strcmp(path + n - 5, ".json") == 0)
        return add_comparison(r, path, err);
    return add_trace(r, path, err);
}

// The data.

static void write_data(const struct report *r, FILE *out)
{
    struct jsonw j;
    char now[32];
    time_t t = time(NULL);
    struct tm utc;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
    jsonw_begin(&j, out);
    jsonw_object(&j);
    const struct {
        const char *name, *text;
    } texts[] = {{"schema", "fstq-report"},      {"suite_version", buildinfo.version},
                 {"git_rev", buildinfo.git_rev}, {"made_utc", now},
                 {"command", r->command},        {"compare_file", r->compare_path}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        jsonw_key(&j, texts[i].name);
        jsonw_text(&j, texts[i].text);
    }
    jsonw_key(&j, "compare");
    if (r->compare_text)
        jsonw_raw(&j, r->compare_text);
    else
        jsonw_text(&j, NULL);
    jsonw_key(&j, "runs");
    jsonw_array(&j);
    for (int i = 0; i < r->n_runs; i++)
        page_run_json(&j, &r->run[i]);
    jsonw_end(&j);
    jsonw_end(&j);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

// The table of a comparison that fits a column's or a page's width.

enum { SHORT = 6 };
static const char *const short_heads[SHORT] = {"method", "message (B)", "uplink (× less)",
                                               "score",  "vs base",     "time (× less)"};

static void put_half(char *out, size_t size, const json_t *x, const char *fmt, const char *half)
{
    const json_t *mean = json_object_get(x, "mean"), *ci = json_object_get(x, "ci95");
    snprintf(out, size, "-");
    if (json_is_number(mean))
        snprintf(out, size, fmt, json_number_value(mean));
    size_t n = strlen(out);
    if (json_is_number(mean) && json_number_value(ci) > 0) // of no spread there is no interval
        snprintf(out + n, size - n, half, json_number_value(ci));
}

static void short_cells(const json_t *m, char cell[SHORT][64])
{
    const json_t *bytes = json_object_get(m, "message_bytes"), *x = json_object_get(m, "less_time");
    snprintf(cell[0], 64, "%s", text_of(m, "name"));
    snprintf(cell[1], 64, json_is_number(bytes) ? "%.0f" : "-", json_number_value(bytes));
    put_half(cell[2], 64, json_object_get(m, "less_uplink"), "%.3g", "");
    put_half(cell[3], 64, json_object_get(m, "final"), "%.3f", " ± %.3f");
    put_half(cell[4], 64, json_object_get(m, "vs_base"), "%+.3f", " ± %.3f");
    put_half(cell[5], 64, x, "%.3g", "");
    const json_t *low = json_object_get(x, "low"), *high = json_object_get(x, "high");
    size_t n = strlen(cell[5]);
    if (json_number_value(high) > json_number_value(low))
        snprintf(cell[5] + n, 64 - n, " [%.3g, %.3g]", json_number_value(low),
                 json_number_value(high));
}

static void print_latex(const char *const *cells)
{
    for (int k = 0; k < SHORT; k++) {
        fputs(k ? " & " : "", stdout);
        table_latex(stdout, cells[k]);
    }
    puts(" \\\\");
}

static void print_short(const struct report *r)
{
    struct table t = {.out = stdout, .n_cols = SHORT};
    size_t i;
    json_t *m;
    for (int k = 0; k < SHORT; k++)
        t.col[k] = (struct table_col){short_heads[k], "", 0, k ? TABLE_RIGHT : TABLE_LEFT};
    if (r->latex) {
        json_array_foreach(json_object_get(r->compare, "methods"), i, m)
            printf("%% %s\n", text_of(m, "verdict"));
        puts("% \\usepackage{booktabs}; a page of two columns has room for it "
             "(table*)\n\\begin{tabular}{lrrrrr}\n\\toprule");
        print_latex(short_heads);
        puts("\\midrule");
    } else {
        table_set_form("md", NULL);
        table_head(&t);
    }
    json_array_foreach(json_object_get(r->compare, "methods"), i, m)
    {
        char cell[SHORT][64];
        const char *cells[SHORT];
        short_cells(m, cell);
        if (!strcmp(cell[0], text_of(r->compare, "base")))
            strcpy(cell[4], "-");
        for (int k = 0; k < SHORT; k++)
            cells[k] = cell[k];
        if (r->latex)
            print_latex(cells);
        else
            table_row(&t, cells);
    }
    puts(r->latex ? "\\bottomrule\n\\end{tabular}" : "");
    if (r->latex)
        return;
    json_array_foreach(json_object_get(r->compare, "methods"), i, m)
        printf("- %s\n", text_of(m, "verdict"));
}

// The page.

static void tables_of_comparison(const struct report *r, FILE *out)
{
    static const char *const heads[] = {"method",      "message (B)",       "score",
                                        "+- (95%)",    "vs base",           "+- (95%)",
                                        "less uplink", "less modelled time"};
    size_t i;
    json_t *m;
    fputs("<ul>\n", out);
    json_array_foreach(json_object_get(r->compare, "methods"), i, m)
    {
        fputs("<li>", out);
        page_escape(out, text_of(m, "verdict"));
        fputs("</li>\n", out);
    }
    fputs("</ul>\n<table>\n", out);
    page_tables_row(out, heads, ARRAY_LEN(heads), true);
    json_array_foreach(json_object_get(r->compare, "methods"), i, m)
    {
        const json_t *final = json_object_get(m, "final"), *gain = json_object_get(m, "vs_base");
        const json_t *v[] = {json_object_get(m, "message_bytes"),
                             json_object_get(final, "mean"),
                             json_object_get(final, "ci95"),
                             json_object_get(gain, "mean"),
                             json_object_get(gain, "ci95"),
                             json_object_get(json_object_get(m, "less_uplink"), "mean"),
                             json_object_get(json_object_get(m, "less_time"), "mean")};
        char text[ARRAY_LEN(v)][32];
        const char *cells[ARRAY_LEN(heads)] = {text_of(m, "name")};
        for (size_t k = 0; k < ARRAY_LEN(v); k++) {
            snprintf(text[k], sizeof text[k], k ? "%.4f" : "%.0f", json_number_value(v[k]));
            cells[k + 1] = json_is_number(v[k]) ? text[k] : "-";
        }
        page_tables_row(out, cells, ARRAY_LEN(heads), false);
    }
    fputs("</table>\n", out);
}

static void write_tables(const struct report *r, FILE *out)
{
    page_tables_head(out, r->compare ? text_of(r->compare, "config") : "fstq report");
    if (r->compare)
        tables_of_comparison(r, out);
    for (int i = 0; i < r->n_runs; i++)
        page_tables_run(out, &r->run[i]);
    fputs("<p><code>", out);
    page_escape(out, r->command);
    fputs("</code></p></body></html>\n", out);
}

// scripts/report.py of the installation or of the checkout that this program lies in.
static bool find_script(char *out, size_t size)
{
    static const char *const places[] = {"../share/fstq/scripts", "../../scripts"};
    char self[900];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return false;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        snprintf(out, size, "%s/%s/report.py", self, places[i]);
        if (access(out, R_OK) == 0)
            return true;
    }
    return false;
}

// The script writes the page to its stdout, or with a folder its figures there. False: there is no
// Python, or it failed.
static bool draw(const char *data, FILE *page, const char *folder)
{
    char script[1000];
    const char *python = getenv("PYTHON");
    if (!find_script(script, sizeof script)) {
        fputs("fstq report: no scripts/report.py beside this program: no pictures\n", stderr);
        return false;
    }
    if (!python || !*python)
        python = "python3";
    fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        return false;
    if (child == 0) {
        dup2(fileno(page), STDOUT_FILENO);
        execlp(python, python, script, data, folder ? "--figures" : NULL, folder, (char *)NULL);
        _exit(127);
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        return false;
    bool drawn = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!drawn)
        fprintf(stderr, "fstq report: %s %s %s drew nothing: tables only\n", python, script, data);
    return drawn;
}

static int write_page(const struct report *r, const char *data, const char *path, struct err *err)
{
    struct outfile out;
    if (outfile_open(&out, path, page_begins, err))
        return -1;
    if (r->plain || !draw(data, out.f, NULL)) {
        if (ftruncate(fileno(out.f), 0) || fseek(out.f, 0, SEEK_SET))
            return err_set(err, "%s: cannot be written anew", path);
        write_tables(r, out.f);
    }
    return outfile_close(&out, err);
}

static int write_report(struct report *r, struct err *err)
{
    char data[1100], page[1100], sentence[1536];
    struct outfile out;
    if (fsio_mkdirs(r->out, err))
        return -1;
    snprintf(data, sizeof data, "%s/report.json", r->out);
    snprintf(page, sizeof page, "%s/report.html", r->out);
    if (outfile_open(&out, data, data_begins, err))
        return -1;
    write_data(r, out.f);
    if (outfile_close(&out, err) || write_page(r, data, page, err))
        return -1;
    if (r->figures) {
        char folder[1100];
        snprintf(folder, sizeof folder, "%s/figures", r->out);
        if (!draw(data, stderr, folder))
            return err_set(err, "%s: no figures", folder);
        printf("# %s: figures as SVG and PDF at the width of a column, and their data\n", folder);
    }
    for (int i = 0; i < r->n_runs && !r->compare; i++) {
        page_sentence(&r->run[i], sentence, sizeof sentence);
        printf("# %s\n", sentence);
    }
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(r->compare, "methods"), i, m)
        printf("# %s\n", text_of(m, "verdict"));
    if (r->missing)
        printf("# of %d methods no trace lies there: they have no stages, links and widths\n",
               r->missing);
    printf("# %s: its numbers\n# %s: open it in a browser; it needs nothing beside itself\n", data,
           page);
    return 0;
}

// The paper's tables, beside comparisons of ours.

static int report_paper(char *const *path, int n)
{
    struct paper p;
    struct err err = {""};
    json_t *doc[PAPER_DOCS];
    int status = STATUS_VALID;
    paper_open(&p);
    for (int i = 0; i < n && status == STATUS_VALID; i++) {
        char file[1100];
        struct stat st;
        bool folder = stat(path[i], &st) == 0 && S_ISDIR(st.st_mode);
        snprintf(file, sizeof file, "%s%s", path[i], folder ? "/compare.json" : "");
        if (i == PAPER_DOCS)
            err_set(&err, "more than %d comparisons at once", (int)PAPER_DOCS);
        else if ((doc[i] = read_comparison(file, true, &err)))
            p.doc[p.n_docs++] = doc[i];
        status = p.n_docs > i ? STATUS_VALID : STATUS_ENV;
    }
    FILE *out = table_stream(stdout);
    if (status == STATUS_VALID)
        paper_print(&p, out);
    else
        fprintf(stderr, "fstq report: %s\n", err.text);
    fflush(out);
    for (int i = 0; i < p.n_docs; i++)
        json_decref(doc[i]);
    paper_close(&p);
    return status;
}

// The command.

static int parse(struct report *r, int argc, char **argv)
{
    static const struct option flags[] = {
        {"output", required_argument, NULL, 'o'}, {"tables", no_argument, NULL, 't'},
        {"figures", no_argument, NULL, 'F'},      {"paper", no_argument, NULL, 'p'},
        {"form", required_argument, NULL, 'f'},   {"latex", no_argument, NULL, 'l'},
        {"markdown", no_argument, NULL, 'm'},     {0}};
    struct err err;
    size_t used = (size_t)snprintf(r->command, sizeof r->command, "fstq");
    for (int i = 0; i < argc && used < sizeof r->command; i++)
        used += (size_t)snprintf(r->command + used, sizeof r->command - used, " %s", argv[i]);
    argv[0] = (char[]){"fstq report"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        if (c == '?')
            return -1;
        if (c == 'f' && table_set_form(optarg, &err)) {
            fprintf(stderr, "fstq report: %s\n", err.text + strlen("-o "));
            return -1;
        }
        if (c == 't')
            r->plain = true;
        else if (c == 'p')
            r->paper = true;
        else if (c == 'F')
            r->figures = true;
        else if (c == 'l')
            r->latex = true;
        else if (c == 'm')
            r->markdown = true;
        else if (c == 'f')
            continue;
        else
            snprintf(r->out, sizeof r->out, "%s", optarg);
    }
    if (r->paper)
        return 0;
    if (table_form() != TABLE_TEXT) {
        fprintf(stderr, "fstq report: --form is for --paper; a comparison's table is --markdown or "
                        "--latex, a trace's are fstq show -o FORM\n");
        return -1;
    }
    if (optind == argc) {
        fprintf(stderr, "fstq report: traces, or the folder of a comparison, please: fstq report "
                        "runs/compare-quick\n");
        return -1;
    }
    if (*r->out)
        return 0;
    struct stat st;
    snprintf(r->out, sizeof r->out, "%s", argv[optind]);
    if (stat(r->out, &st) || !S_ISDIR(st.st_mode)) {
        char copy[sizeof r->out];
        snprintf(copy, sizeof copy, "%s", r->out);
        snprintf(r->out, sizeof r->out, "%.900s", dirname(copy));
    }
    return 0;
}

static void free_report(struct report *r)
{
    for (int i = 0; i < r->n_sources; i++) {
        trace_file_free(&r->source[i]->f);
        mem_free(r->source[i]);
    }
    json_decref(r->compare);
    free(r->compare_text);
    mem_free(r);
}

static int report_main(int argc, char **argv)
{
    struct report *r = mem_alloc(MEM_OTHER, sizeof *r);
    struct err err = {""};
    int status = STATUS_VALID;
    if (parse(r, argc, argv)) {
        free_report(r);
        return STATUS_USAGE;
    }
    if (r->paper) {
        free_report(r);
        return report_paper(argv + optind, argc - optind);
    }
    for (int i = optind; i < argc && status == STATUS_VALID; i++)
        if (r->compare && argc - optind > 1) {
            err_set(&err, "a comparison is a report of its own: give it alone");
            status = STATUS_USAGE;
        } else if (add_argument(r, argv[i], &err)) {
            status = STATUS_ENV;
        }
    bool table = r->latex || r->markdown;
    if (status == STATUS_VALID && table && !r->compare) {
        err_set(&err,
                "--latex and --markdown have the table of a comparison; fstq show TRACE -o md "
                "has a trace's");
        status = STATUS_USAGE;
    }
    if (status == STATUS_VALID && table)
        print_short(r);
    else if (status == STATUS_VALID && write_report(r, &err))
        status = STATUS_ENV;
    if (status != STATUS_VALID)
        fprintf(stderr, "fstq report: %s\n", err.text);
    else if (r->damaged)
        status = STATUS_DEGRADED;
    free_report(r);
    return status;
}

const struct cmd cmd_report = {
    .name = "report",
    .usage = "TRACE.h5 ... | COMPARE_DIR [-o DIR] [--tables | --figures | --latex | --markdown] | "
             "--paper [COMPARE_DIR | JSON ...]",
    .help = "one self-contained HTML page about runs or about a comparison",
    .details =
        "  COMPARE_DIR  what fstq compare keeps its runs in (compare.dir, else runs/NAME of the\n"
        "               config), or what it wrote as JSON; else traces, or a folder of them\n"
        "  -o DIR, --output DIR   where report.html and report.json go; else beside the first\n"
        "  --tables     no pictures; so it is, too, where there is no Python 3\n"
        "  --figures    also DIR/figures: every panel as SVG and PDF at the width of a column, "
        "and\n"
        "               CSV\n"
        "  --latex, --markdown   instead, on stdout: a comparison's table, as wide as a page, and\n"
        "               its sentences; fstq compare has these forms of all columns\n"
        "  --paper      the tables of the Fed-FSTQ paper on stdout: as reported, computed anew "
        "where\n"
        "               they follow from others, and ours where COMPARE_DIRs hold comparisons by\n"
        "               configs/paper/; --form md, csv, json or jsonl\n\n"
        "The verdict in a sentence per method, score by round, bytes and time, stages, a round by\n"
        "client, bytes by part, bits by layer, links, energy and memory, as far as the traces "
        "hold\n"
        "them. The page loads nothing from elsewhere. $PYTHON names the interpreter (python3).\n\n"
        "  fstq compare configs/compare-quick.ini && fstq report runs/compare-quick\n"
        "  fstq report quick.h5 -o quick-report\n"
        "  fstq report --paper --form md\n",
    .alone = true,
    .run = report_main,
};
