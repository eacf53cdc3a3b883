#include "manual.h"

#include "base/buildinfo.h"
#include "base/check.h"
#include "compare/compare.h"
#include "config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

// Every parameter there is, by its whole name, and the sections before theirs where section is
// given.
typedef void (*parameter_fn)(FILE *out, const char *name, const struct opt *row);

static void each_parameter(FILE *out, void (*section)(FILE *out, const char *name), parameter_fn fn)
{
    char name[96];
    for (int i = 0; i < config_section_count; i++) {
        if (section)
            section(out, config_sections[i].name);
        for (int k = 0; k < *config_sections[i].n; k++)
            fn(out, config_sections[i].rows[k].name, &config_sections[i].rows[k]);
    }
    if (section)
        section(out, CONFIG_COMPARE);
    for (int k = 0; k < compare_option_count; k++) {
        snprintf(name, sizeof name, "%s.%s", CONFIG_COMPARE, compare_options[k].name);
        fn(out, name, &compare_options[k]);
    }
}

// roff.

// Text as it is: a backslash, a hyphen that is a minus, and a dot or quote that begins a line mean
// something else to roff.
static void roff_text(FILE *out, const char *text)
{
    bool first = true;
    for (const char *s = text; *s; s++) {
        if (first && (*s == '.' || *s == '\''))
            fputs("\\&", out);
        if (*s == '\\')
            fputs("\\e", out);
        else if (*s == '-')
            fputs("\\-", out);
        else
            fputc(*s, out);
        first = *s == '\n';
    }
}

static void roff_head(FILE *out, int section, const char *help)
{
    fprintf(out, ".TH FSTQ %d \"\" \"fstq %s\" \"FSTQ-Bench\"\n.ad l\n.SH NAME\nfstq \\- ", section,
            buildinfo.version);
    roff_text(out, help);
    fputs("\n", out);
}

// What --help prints behind the first lines, with its line breaks.
static void roff_details(FILE *out, const struct cmd *c)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory)
        die(STATUS_ENV, "out of memory");
    fputs(c->details, memory);
    if (c->more)
        c->more(memory, 0, NULL);
    fclose(memory);
    fputs(".PP\n.nf\n", out);
    roff_text(out, text);
    fputs("\n.fi\n", out);
    free(text);
}

static void print_man(const struct manual *m, FILE *out)
{
    roff_head(out, 1, "federated fine-tuning under communication limits");
    fputs(".SH SYNOPSIS\n.B fstq\n.I COMMAND\n[ARGS]\n.br\n.B fstq\\-run\n\\-np\n.I N COMMAND\n"
          "[ARGS]\n.SH DESCRIPTION\n",
          out);
    roff_text(out, "A benchmark suite for communication-efficient federated fine-tuning of "
                   "language models on edge devices: real bytes, honest time, runs that repeat. "
                   "fstq-run starts a command on several MPI ranks, of which rank 0 is the "
                   "server. Parameters are in");
    fputs("\n.BR fstq (5).\n.SH COMMANDS\n", out);
    for (size_t i = 0; i < m->n; i++) {
        const struct cmd *c = m->commands[i];
        fputs(".SS fstq ", out);
        roff_text(out, c->name);
        fputs(" ", out);
        roff_text(out, c->usage);
        fputs("\n", out);
        roff_text(out, c->help);
        fputs("\n", out);
        roff_details(out, c);
    }
    fputs(".SH EXIT STATUS\n.nf\n", out);
    roff_text(out, m->statuses);
    fputs(".fi\n.SH SEE ALSO\n.BR fstq (5),\n.BR mpirun (1)\n", out);
}

static void roff_parameter(FILE *out, const char *name, const struct opt *row)
{
    char range[256];
    opt_range(row, range, sizeof range);
    fputs(".TP\n.B \"", out);
    roff_text(out, name);
    fputs(" = ", out);
    for (const char *s = row->dflt; *s; s++) // a quote within quotes is two
        fputs(*s == '"' ? "\"\"" : (char[]){*s, '\0'}, out);
    fputs("\"\n", out);
    roff_text(out, row->help);
    fputs(" (", out);
    roff_text(out, range);
    fputs(")\n", out);
}

static void roff_section(FILE *out, const char *name)
{
    fprintf(out, ".SS [%s]\n", name);
}

static void print_man5(FILE *out)
{
    roff_head(out, 5, "config files and parameters");
    fputs(".SH DESCRIPTION\n", out);
    roff_text(out, "A config is an ini file: 'key = value' under its [section]. On the command "
                   "line the same parameter is section.key=value, which overrides the file. "
                   "Below stands each with its default, its meaning and its range. A line that "
                   "begins with '#' or ';' is a comment, and so is what follows ' ;'.\n");
    fputs(".SH EXAMPLE\n.nf\n", out);
    roff_text(out, "[fed]\nmethod = fedavg/int:bits=4\nrounds = 20\n[net]\nlink = lte-hetero\n");
    fputs(".fi\n.PP\n", out);
    roff_text(out, "and what it says of rounds is overridden by");
    fputs("\n.B fstq run my.ini fed.rounds=5\n", out);
    fputs(".SH PARAMETERS\n", out);
    each_parameter(out, roff_section, roff_parameter);
    fputs(".SH SEE ALSO\n.BR fstq (1)\n", out);
}

// Completion.

static void put_command(const struct manual *m, FILE *out)
{
    for (size_t i = 0; i < m->n; i++)
        fprintf(out, "%s ", m->commands[i]->name);
    fputs("help", out);
}

// The next long option that the help of a command names, each once; NULL behind the last.
static const char *next_flag(const struct cmd *c, const char *s, size_t *n)
{
    for (; (s = strstr(s, "--")); s += *n) {
        *n = 2;
        while (islower((unsigned char)s[*n]) || s[*n] == '-')
            ++*n;
        bool again = false;
        for (const char *t = c->details; t < s && (t = strstr(t, "--")) && t < s; t += 2)
            again |= strncmp(t, s, *n) == 0 && !islower((unsigned char)t[*n]) && t[*n] != '-';
        if (*n > 2 && !again && strncmp(s, "--help", *n) != 0)
            return s;
    }
    return NULL;
}

static void put_flags(FILE *out, const struct cmd *c)
{
    size_t n = 0;
    fputs("--help", out);
    for (const char *s = c->details; (s = next_flag(c, s, &n)); s += n)
        fprintf(out, " %.*s", (int)n, s);
}

const char *manual_nearest_flag(const struct cmd *c, const char *arg)
{
    static char best[32];
    char given[32], flag[32];
    int distance = 3; // of what is no longer a slip
    size_t n = 0, letters = strcspn(arg, "=");
    *best = '\0';
    if (strncmp(arg, "--", 2) != 0 || letters < 4 || letters >= sizeof given)
        return NULL;
    snprintf(given, sizeof given, "%.*s", (int)letters, arg);
    for (const char *s = c->details; (s = next_flag(c, s, &n)); s += n) {
        snprintf(flag, sizeof flag, "%.*s", (int)n, s);
        if (strncmp(flag, given, letters) == 0)
            return NULL; // it, or short for it
        int far = opt_distance(flag, given);
        if (far < distance) {
            distance = far;
            memcpy(best, flag, sizeof best);
        }
    }
    return *best ? best : NULL;
}

static void put_key(FILE *out, const char *name, const struct opt *row)
{
    (void)row;
    fprintf(out, " %s=", name);
}

// A case of the shell for a parameter whose values are few.
static void put_values(FILE *out, const char *name, const struct opt *row)
{
    if (row->type != OPT_BOOL && row->type != OPT_CHOICE)
        return;
    fprintf(out, "    %s) echo '", name);
    if (row->type == OPT_BOOL)
        fputs("on off", out);
    for (int32_t i = 0; row->type == OPT_CHOICE && opt_choice(row, i); i++)
        fprintf(out, "%s%s", i ? " " : "", opt_choice(row, i));
    fputs("' ;;\n", out);
}

// What both shells ask: the words of a command, of its options, of keys and of values.
static void put_words(const struct manual *m, FILE *out)
{
    fputs("_fstq_words() { # commands | flags COMMAND | keys COMMAND | values KEY\n"
          "    case $1 in\n    commands) echo '",
          out);
    put_command(m, out);
    fputs("' ;;\n    flags) case $2 in\n", out);
    for (size_t i = 0; i < m->n; i++) {
        fprintf(out, "    %s) echo '", m->commands[i]->name);
        put_flags(out, m->commands[i]);
        fputs("' ;;\n", out);
    }
    fputs("    esac ;;\n    keys) case $2 in\n", out);
    for (size_t i = 0; i < m->n; i++)
        if (m->commands[i]->words) {
            fprintf(out, "    %s) echo '", m->commands[i]->name);
            m->commands[i]->words(out);
            fputs("' ;;\n", out);
        }
    fputs("    *) echo '", out);
    each_parameter(out, NULL, put_key);
    fputs("' ;;\n    esac ;;\n    values) case $2 in\n", out);
    each_parameter(out, NULL, put_values);
    fputs("    esac ;;\n    esac\n}\n", out);
}

static const char bash_rest[] =
    "_fstq() {\n"
    "    local line=${COMP_LINE:0:COMP_POINT} cmd i cur words\n"
    "    cur=${line##*[[:space:]]} # whole, though bash cuts words at '='\n"
    "    COMPREPLY=()\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        case \" $(_fstq_words commands) \" in *\" ${COMP_WORDS[i]} \"*)\n"
    "            cmd=${COMP_WORDS[i]}\n"
    "            break ;;\n"
    "        esac\n"
    "    done\n"
    "    if [ -z \"$cmd\" ] || [ \"$cmd\" = help ]; then\n"
    "        words=$(_fstq_words commands)\n"
    "    else\n"
    "        case $cur in\n"
    "        -*) words=$(_fstq_words flags \"$cmd\") ;;\n"
    "        *=*) words=$(_fstq_words values \"${cur%%=*}\")\n"
    "            case $COMP_WORDBREAKS in *=*) cur=${cur#*=} ;;\n"
    "            *) words=$(printf \" ${cur%%=*}=%s\" $words) ;;\n"
    "            esac ;;\n"
    "        *) words=$(_fstq_words keys \"$cmd\")\n"
    "            case $words in *=*) compopt -o nospace 2>/dev/null ;; esac ;;\n"
    "        esac\n"
    "    fi\n"
    "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
    "    [ ${#COMPREPLY[@]} -gt 0 ] || {\n"
    "        compopt +o nospace -o filenames 2>/dev/null\n"
    "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
    "    }\n"
    "}\n"
    "complete -F _fstq fstq fstq-run\n";

static const char zsh_rest[] =
    "_fstq() {\n"
    "    local cmd word key\n"
    "    for word in ${words[2,CURRENT-1]}; do\n"
    "        if [[ \" $(_fstq_words commands) \" == *\" $word \"* ]]; then\n"
    "            cmd=$word\n"
    "            break\n"
    "        fi\n"
    "    done\n"
    "    if [[ -z $cmd || $cmd == help ]]; then\n"
    "        compadd -- ${=$(_fstq_words commands)}\n"
    "    elif [[ $PREFIX == -* ]]; then\n"
    "        compadd -- ${=$(_fstq_words flags $cmd)}\n"
    "    elif [[ $PREFIX == *=* ]]; then\n"
    "        key=${PREFIX%%=*}\n"
    "        compset -P '*='\n"
    "        compadd -- ${=$(_fstq_words values $key)} || _files\n"
    "    else\n"
    "        word=$(_fstq_words keys $cmd)\n"
    "        if [[ $word == *=* ]]; then\n"
    "            compadd -S '' -- ${=word}\n"
    "        else\n"
    "            compadd -- ${=word}\n"
    "        fi\n"
    "        _files\n"
    "    fi\n"
    "}\n"
    "# Loaded as a function it is asked at once, sourced it is made known.\n"
    "if [[ $funcstack[1] == _fstq ]]; then\n"
    "    _fstq \"$@\"\n"
    "else\n"
    "    compdef _fstq fstq fstq-run\n"
    "fi\n";

bool manual_print(const char *what, const struct manual *m, FILE *out)
{
    if (strcmp(what, "--man") == 0) {
        print_man(m, out);
    } else if (strcmp(what, "--man5") == 0) {
        print_man5(out);
    } else if (strcmp(what, "--bash") == 0) {
        fputs("# Completion of fstq for bash, written by fstq help --bash.\n", out);
        put_words(m, out);
        fputs(bash_rest, out);
    } else if (strcmp(what, "--zsh") == 0) {
        fputs("#compdef fstq fstq-run\n# Written by fstq help --zsh.\n", out);
        put_words(m, out);
        fputs(zsh_rest, out);
    } else {
        return false;
    }
    return true;
}
