// The page without pictures.
#include "report/page.h"

#include "report/report.h"

#include <stdlib.h>

void page_escape(FILE *out, const char *text)
{
    for (const char *s = text; *s; s++) {
        switch (*s) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc(*s, out);
        }
    }
}

void page_tables_head(FILE *out, const char *title)
{
    fputs("<!DOCTYPE html>\n<!--fstq report-->\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          out);
    page_escape(out, title);
    fputs("</title>\n<style>:root{color-scheme:light dark}"
          "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:1em auto;padding:0 1em}"
          "table{border-collapse:collapse;display:block;overflow-x:auto}"
          "th,td{padding:.2em .7em;border-bottom:1px solid #8886;text-align:right}"
          "th:first-child,td:first-child{text-align:left}pre{overflow-x:auto}</style></head>\n"
          "<body><h1>",
          out);
    page_escape(out, title);
    fputs("</h1>\n<p>Tables only: with Python 3 this page has pictures.</p>\n", out);
}

void page_tables_row(FILE *out, const char *const *cells, size_t n, bool head)
{
    fputs("<tr>", out);
    for (size_t i = 0; i < n; i++) {
        fputs(head ? "<th>" : "<td>", out);
        page_escape(out, cells[i]);
        fputs(head ? "</th>" : "</td>", out);
    }
    fputs("</tr>\n", out);
}

void page_tables_run(FILE *out, const struct page_run *p)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory)
        return;
    report_head(memory, p->f, p->path);
    report_summary(memory, p->f, p->run);
    report_rounds(memory, p->f, p->run, REPORT_CONDENSED);
    report_stages(memory, p->f, p->run);
    report_bytes(memory, p->f, p->run);
    report_widths(memory, p->f, p->run, REPORT_CONDENSED);
    report_energy(memory, p->f, p->run);
    report_clients(memory, p->f, p->run, REPORT_CONDENSED);
    if (fclose(memory) == 0) {
        fputs("<h2>", out);
        page_escape(out, p->label);
        fputs("</h2>\n<pre>", out);
        page_escape(out, text);
        fputs("</pre>\n", out);
    }
    free(text);
}
