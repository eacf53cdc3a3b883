#!/usr/bin/python3
"""Draws the page of fstq report: report.py report.json [OUT.html], else to stdout;
report.py report.json --figures DIR: its figures as SVG and PDF at the width of a column, and CSV.

report.json is what 'fstq report' writes: the numbers, computed by fstq. The page holds everything
it needs, figures, their data, style and script; it loads nothing. Only the standard library is
used.
"""
import json
import os
import sys
from urllib.parse import quote

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report_figures as figures
from report_pdf import write_figures
from report_svg import BYTES, TIMES, esc, known, number, with_unit

HERE = os.path.dirname(os.path.abspath(__file__))
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def part_of(name):
    with open(os.path.join(HERE, name), encoding='utf-8') as f:
        return f.read()


def nothing_to_nan(values):
    return [v if known(v) else float('nan') for v in values]


def trailing(values, n):
    """Mean of each value and the n - 1 before it, of fewer at the start."""
    values = nothing_to_nan(values)
    return [sum(values[max(0, i + 1 - n):i + 1]) / len(values[max(0, i + 1 - n):i + 1])
            for i in range(len(values))]


def series_of_comparison(compare, runs):
    out, place = [], 0
    by_name = {r['label']: r for r in runs}
    for m in compare['methods']:
        is_base = m['name'] == compare['base']
        s = figures.Series(m['name'], place, is_base)
        place += not is_base
        curve = m['curve']
        s.round, s.bytes, s.time = curve['round'], curve['uplink_bytes'], curve['time_modelled_ns']
        s.mean = nothing_to_nan(curve['score_mean'])
        finished = [r for r in m['runs'] if r['round']]
        if len(finished) > 2:
            s.half = nothing_to_nan(curve['score_ci95'])
        elif len(finished) == 2:
            s.seeds = [trailing(r['score'][:len(s.mean)], compare['trailing']) for r in finished]
        s.message, s.verdict = m['message_bytes'], m['verdict']
        s.bits, s.nmse = m['bits_per_value'], m['nmse']
        s.final, s.final_half = m['final']['mean'], m['final']['ci95']
        s.run = by_name.get(m['name'])
        out.append(s)
    return out


def series_of_runs(runs):
    out = []
    modelled = all(r['rounds']['time_modelled_ns'][-1:] > [0] and r['pace'] in ('model', '')
                   for r in runs)
    for place, r in enumerate(runs):
        s = figures.Series(r['label'], place, False)
        rounds, b = r['rounds'], r['bytes']
        s.run, s.verdict = r, r['verdict']
        s.round, s.bytes = rounds['version'], rounds['uplink_bytes']
        s.time = rounds['time_modelled_ns' if modelled else 'time_measured_ns']
        s.mean = nothing_to_nan(rounds['score'])
        s.message = b['total'] / b['frames'] if b['frames'] else None
        s.bits = 8 * b['total'] / b['values_told'] if b['values_told'] > 0 else None
        s.nmse = b['nmse_median']
        s.final = next((v for v in reversed(rounds['score']) if known(v)), None)
        out.append(s)
    return out, modelled


def swatch(key):
    return f'<svg viewBox="0 0 20 14" aria-hidden="true">{key.sample(0, 7)}</svg>'


def verdict(series):
    items = []
    for s in series:
        text = s.verdict
        head, rest = (s.name, text[len(s.name):]) if text.startswith(s.name) else ('', text)
        items.append(f'<li>{swatch(s.key())}<b>{esc(head)}</b>{esc(rest.replace("+-", "±"))}</li>')
    return f'<ul class="verdict">{"".join(items)}</ul>'


def table(heads, rows):
    """heads: (name, unit); a cell is (text, value to sort by)."""
    out = ['<div class="scroll"><table class="sortable"><thead><tr>']
    for name, unit in heads:
        small = f'<small>{esc(unit)}</small>' if unit else ''
        out.append(f'<th scope="col"><button type="button">{esc(name)}</button>{small}</th>')
    out.append('</tr></thead><tbody>')
    for row in rows:
        cells = (f'<td data-v="{esc("" if value is None else value)}">{esc(text)}</td>'
                 for text, value in row)
        out.append(f'<tr>{"".join(cells)}</tr>')
    out.append('</tbody></table></div>')
    return ''.join(out)


def value_cell(v, text=None):
    return (text if text is not None else number(v), v if known(v) else None)


def whole(v):
    return value_cell(v, f'{v:,.0f}' if known(v) else '–')


def interval(x, digits=4):
    if not known(x['mean']):
        return value_cell(None, '–')
    half = f' ± {x["ci95"]:.{digits}f}' if known(x['ci95']) else ''
    return value_cell(x['mean'], f'{x["mean"]:.{digits}f}{half}')


def ratio(x):
    if not known(x['mean']):
        return value_cell(None, '–')
    low, high = number(x['low']), number(x['high'])
    return value_cell(x['mean'], number(x['mean']) + (f' [{low}, {high}]' if low != high else ''))


def comparison_table(compare):
    methods = compare['methods']
    targets = [t['target'] for t in methods[0]['targets']] if methods else []
    tests = any(known(m['test']['p_holm']) for m in methods)
    way = 'uplink' if compare['traffic'] == 'up' else 'traffic'
    heads = [('method', ''), ('message', 'B'), ('bits', 'a value'), (way, 'of a run'),
             (f'less {way}', '×'), (compare['score'], '± 95%'),
             (f'against {compare["base"]}', 'paired, ± 95%')]
    if tests:
        heads += [('d', 'paired'), ('p', 'Wilcoxon, Holm')]
    heads += [('time', 'modelled'), ('less time', '× [95%]')]
    for t in targets:
        heads.append((f'time to {100 * t:g}%', '× less [95%] (seeds)'))
    rows = []
    for m in methods:
        base = m['name'] == compare['base']
        row = [(m['name'], m['name']), whole(m['message_bytes']),
               value_cell(m['bits_per_value']),
               value_cell(m['uplink_total_bytes'], with_unit(m['uplink_total_bytes'], BYTES)),
               ratio(m['less_uplink']), interval(m['final']),
               value_cell(None, '–') if base else interval(m['vs_base'])]
        if tests:
            row += [value_cell(m['test']['cohen_dz']), value_cell(m['test']['p_holm'])]
        total = m['time_modelled_total_ns']['mean']
        row += [value_cell(total, with_unit(total, TIMES)), ratio(m['less_time'])]
        for t in m['targets']:
            text, value = ratio(t['less_time'])
            row.append((f'{text} ({t["reached"]}/{len(m["runs"])})', value))
        rows.append(row)
    note = (f'× less: how many times less than {compare["base"]}. Press a head to sort. Intervals '
            'are Student\'s over seeds, paired with the base by seed, of ratios on logarithms. A '
            'target is a part of the base\'s final score on the '
            'same seed; behind it stands how many seeds reach it, and – where one misses it. '
            'Time is modelled.')
    return table(heads, rows) + f'<p class="caption">{esc(note)}</p>'


def runs_table(runs):
    heads = [('run', ''), ('seed', ''), ('rounds', ''), ('message', 'B'), ('uplink', 'of the run'),
             ('score', 'last'), ('loss', 'last, training'), ('time', 'modelled'),
             ('time', 'measured')]
    last = lambda values: next((v for v in reversed(values) if known(v)), None)
    rows = []
    for r in runs:
        k, b = r['rounds'], r['bytes']
        message = b['total'] / b['frames'] if b['frames'] else None
        up, modelled, measured = (last(k[name]) for name in (
            'uplink_bytes', 'time_modelled_ns', 'time_measured_ns'))
        rows.append([(r['label'], r['label']), value_cell(r['seed'], str(r['seed'])),
                     whole(sum(1 for v in k['version'] if v > 0)),
                     whole(message),
                     value_cell(up, with_unit(up, BYTES)), value_cell(last(k['score']), number(
                         last(k['score']), 4)), value_cell(last(k['train_loss'])),
                     value_cell(modelled, with_unit(modelled or None, TIMES)),
                     value_cell(measured, with_unit(measured or None, TIMES))])
    return table(heads, rows)


def figure(f, source):
    key = ''.join(f'<span>{swatch(k)}{esc(k.name)}</span>' for k in f.key)
    wide = ' wide' if f.name == 'widths' else ''
    panels = ''.join(f'<div class="panel">{f"<h3>{esc(t)}</h3>" if t else ""}{svg}</div>'
                     for t, svg in f.panels)
    data = quote(f.csv())
    small = ' class="small"' if len(f.panels) == 1 else ''
    return (f'<section id="{f.name}"{small}><h2>{esc(f.title)}</h2>'
            f'{f"<div class=key>{key}</div>" if key else ""}'
            f'<div class="panels{wide}">{panels}</div>'
            f'<p class="caption">{esc(f.caption)} {source} '
            f'<a class="data" download="fstq-{f.name}.csv" '
            f'href="data:text/csv;charset=utf-8,{data}">Data (CSV)</a></p></section>')


def source_line(data):
    what = data['compare_file'] or ', '.join(dict.fromkeys(r['file'] for r in data['runs']))
    what = what if len(what) < 120 else what[:117] + '…'
    return f'Source: {esc(what)}; <code>{esc(data["command"])}</code>.'


def provenance(data, series):
    rows = []
    for s in series:
        r = s.run
        if r:
            rows.append(f'<tr><td>{esc(s.name)}</td><td><code>{esc(r["method"])}</code></td>'
                        f'<td><code>{esc(r["command_line"])}</code><br>{esc(r["file"])}, '
                        f'{esc(r["created_utc"])}, fstq {esc(r["suite_version"])} '
                        f'({esc(r["git_rev"])}){"" if r["complete"] else ", not complete"}'
                        f'</td></tr>')
    text = json.dumps(data, ensure_ascii=True, separators=(',', ':'))
    return (f'<details><summary>Methods written out, and the commands of the runs</summary>'
            f'<table><thead><tr><th>name</th><th>method</th><th>run</th></tr></thead><tbody>'
            f'{"".join(rows)}</tbody></table></details>'
            f'<p><a class="data" download="report.json" href="data:application/json,'
            f'{quote(text, safe="{}[],:")}">All numbers of this page (JSON)</a></p>')


def title_of(data):
    if data['compare']:
        name = os.path.splitext(os.path.basename(data['compare']['config']))[0]
        return f'{name}: {len(data["compare"]["methods"])} methods compared'
    labels = [r['label'] for r in data['runs']]
    return labels[0] if len(labels) == 1 else f'{len(labels)} runs'


def about(data):
    c, runs = data['compare'], data['runs']
    words = []
    if c:
        seeds = max((len(m['runs']) for m in c['methods']), default=0)
        rounds = max((r['round'][-1] for m in c['methods'] for r in m['runs'] if r['round']),
                     default=0)
        words.append(f'{seeds} seed{"s" * (seeds != 1)}, {rounds:g} rounds, base {c["base"]}')
    for name in ('link', 'pace'):
        values = list(dict.fromkeys(r[name] for r in runs if r[name]))
        if values:
            words.append(f'net.{name} {", ".join(values[:3])}')
    words.append(f'fstq {data["suite_version"]} (git {data["git_rev"]}), {data["made_utc"]}')
    return '; '.join(words)


def drawn_of(data):
    """The series of a report, and its figures."""
    c, runs = data['compare'], data['runs']
    if c:
        series = series_of_comparison(c, runs)
        score, higher = c['score'], c['higher_is_better']
        most = max((len(s.seeds) or len(m['runs']) for s, m in zip(series, c['methods'])),
                   default=0)
        time_name, few = 'modelled time', most < 3 if most > 1 else None
    else:
        series, modelled = series_of_runs(runs)
        score, higher, few = 'score', True, None
        time_name = 'modelled time' if modelled else 'measured time'
    drawn = [figures.curves(series, score, higher, time_name, few),
             figures.pareto(series, score, higher) if c else None, figures.distortion(series),
             figures.scaling(c, series),
             *(f(series) for f in (figures.stages, figures.parts, figures.gantt, figures.widths,
                                   figures.links, figures.memory, figures.energy))]
    return series, drawn


# What a figure that is not here would have taken, in the order of drawn_of.
WANTS = ('score by round, bytes and time: a run with evaluations',
         'bytes against score: a comparison of two methods',
         'rate and distortion: two series that lose something, with fed.nmse on',
         'scaling: methods that differ in one number of an option, or the same run on several '
         'numbers of ranks',
         'where the time of a round goes: spans in a trace',
         'bytes by part: update frames in a trace',
         'a round by client: a link whose time is modelled, or spans of a round',
         'bits by layer and matrix: a codec of several widths',
         'links as applied: a link with a rate',
         'memory: a trace of a whole run',
         'energy: client.profile for a model of it, or a sensor')


def absent(drawn, compared):
    """One line about the figures that are missing, and what they need."""
    gone = [w for k, (f, w) in enumerate(zip(drawn, WANTS)) if not f and (compared or k != 1)]
    return f'<p class="caption">Not in these data: {esc("; ".join(gone))}.</p>' if gone else ''


def sections(data):
    c, source = data['compare'], source_line(data)
    series, drawn = drawn_of(data)
    missing = absent(drawn, c)
    drawn = [figure(f, source) for f in drawn if f]
    first = drawn[:1] if drawn and 'id="score"' in drawn[0] else []
    yield verdict(series)
    yield from first
    yield '<section id="table"><h2>In numbers</h2>'
    yield comparison_table(c) if c else runs_table(data['runs'])
    yield '</section>'
    yield '<div class="figures">'
    yield from drawn[len(first):]
    yield '</div>'
    yield missing
    yield '<section id="runs"><h2>Where it comes from</h2>'
    yield provenance(data, series)
    yield '</section>'


def page(data):
    title = title_of(data)
    return ''.join((
        '<!DOCTYPE html>\n<!--fstq report-->\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<title>{esc(title)}</title><style>{part_of("report.css")}</style></head>\n<body><main>',
        f'<h1>{esc(title)}</h1><p class="about">{esc(about(data))}</p>\n',
        '\n'.join(sections(data)),
        f'<footer>Made by <code>{esc(data["command"])}</code></footer></main>',
        f'<script>{part_of("report.js")}</script></body></html>\n'))


def main():
    if len(sys.argv) not in (2, 3, 4) or (len(sys.argv) == 4 and sys.argv[2] != '--figures'):
        sys.exit('usage: report.py report.json [OUT.html | --figures DIR]')
    try:
        with open(sys.argv[1], encoding='utf-8') as f:
            data = json.load(f)
        if len(sys.argv) == 4:
            write_figures([f for f in drawn_of(data)[1] if f], sys.argv[3])
            return
        text = page(data)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        sys.exit(f'report.py: {sys.argv[1]}: {type(e).__name__}: {e}; it takes what "fstq report" '
                 f'writes')
    if len(sys.argv) == 3:
        with open(sys.argv[2], 'w', encoding='utf-8') as f:
            f.write(text)
    else:
        sys.stdout.buffer.write(text.encode('utf-8', 'replace'))


if __name__ == '__main__':
    main()
