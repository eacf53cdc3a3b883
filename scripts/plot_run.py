#!/usr/bin/python3
"""Draws a run from its trace: plot_run.py FILE.h5 OUT.png (or .svg, .pdf).

Loss and score over rounds, score over uplink, where the time of a round goes, bytes by part.
What the trace does not hold is left out.
"""
import argparse
import os
import sys
import textwrap

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fstq_trace import Trace, text
from plot_style import BYTES, np, plt, style

# Okabe and Ito's colours: told apart with any kind of colour vision, and in grey by their order.
COLOURS = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442']
GREY = '#9A9A9A'
DASHES = ['-', '--', '-.', ':']
PARTS = ['values', 'indices', 'tags', 'scales', 'directory', 'header']
NOT_IN_A_SUM = {'pad', 'round', 'wait'}
DISK = 'sync'  # inner stage: the part of the io lane's stages that waits for the disk
MAX_BARS = 12


def scaled(values, unit_table):
    """The largest unit in which the largest value is at least 1: (divisor, name)."""
    top = np.nanmax(np.abs(values)) if len(values) else 0
    for divisor, name in unit_table:
        if top >= divisor:
            return divisor, name
    return unit_table[-1]


TIMES = [(1e9, 's'), (1e6, 'ms'), (1e3, 'µs'), (1, 'ns')]


def finite(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def log_if_wide(ax, values):
    """A logarithmic axis where the values span more than a factor of 20."""
    if len(values) and min(values) > 0 and max(values) / min(values) > 20:
        ax.set_yscale('log')


def run_label(method, setting, run):
    return textwrap.shorten(' '.join(x for x in (method, setting) if x) or f'run {run}', 44,
                            placeholder='…')


def curves(trace, x_of, fields):
    """[(x, y, label, colour, dash)] of every run and field that has finite values."""
    found = []
    for k, (run, method, setting) in enumerate(trace.runs()):
        rows = trace.rounds(run)
        for i, (field, name) in enumerate(fields):
            x, y = finite(x_of(rows), rows[field])
            if len(y) < 1:
                continue
            several = len(trace.runs()) > 1
            label = run_label(method, setting, run) if several else name
            if several and len(fields) > 1:
                label += ', ' + name
            colour = COLOURS[(k if several else i) % len(COLOURS)]
            found.append((x, y, label, colour, DASHES[(i if several else 0) % len(DASHES)]))
    return found


def draw_curves(ax, found, xlabel, ylabel, title, legend):
    for x, y, label, colour, dash in found:
        ax.plot(x, y, dash, color=colour, label=label, marker='o' if len(x) < 12 else None,
                markersize=3)
    log_if_wide(ax, np.concatenate([y for _, y, *_ in found]))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    if legend and len(found) > 1 and len(found) <= 10:
        ax.legend()


def score_name(trace):
    names = {text(n) for n in trace['eval']['metric']} - {'loss'}
    return names.pop() if len(names) == 1 else 'score'


def panel_loss(trace):
    found = curves(trace, lambda r: r['version'], [('train_loss', 'training'),
                                                   ('eval_loss', 'test set')])
    if not found:
        return None
    return lambda ax: draw_curves(ax, found, 'round', 'loss', 'Loss', True)


def panel_score(trace):
    found = curves(trace, lambda r: r['version'], [('score', 'score')])
    if not found:
        return None
    return lambda ax: draw_curves(ax, found, 'round', score_name(trace), 'Score by round', True)


def panel_score_bytes(trace):
    everything = trace['rounds']['uplink_total_bytes'].astype(float)
    if not len(everything) or everything.max() <= 0:
        return None
    divisor, unit = scaled(everything, BYTES)
    found = curves(trace, lambda r: r['uplink_total_bytes'] / divisor, [('score', 'score')])
    if not found:
        return None
    return lambda ax: draw_curves(ax, found, f'uplink of all clients so far ({unit})',
                                  score_name(trace), 'Score by bytes', False)


def stage_medians(trace, rows):
    """{stage: median over rounds of its time in a round, ns}; of the inner stages only DISK."""
    out = {}
    versions = np.unique(rows['version'])
    for i, name in enumerate(trace.stage_names):
        of_stage = rows[rows['stage'] == i]
        inner = trace.stage_inner[i] and name != DISK
        if name in NOT_IN_A_SUM or inner or not len(of_stage):
            continue
        sums = np.zeros(len(versions))
        np.add.at(sums, np.searchsorted(versions, of_stage['version']), of_stage['dur_ns'])
        out[name] = float(np.median(sums))
    return out


def stage_bars(trace):
    """[(label, {stage: ns}, ns waiting for the disk)]: a bar per run, or of one run per rank."""
    events = trace['events']
    runs = trace.runs()
    if len(runs) > 1:
        picked = [(run_label(m, s, r), events[events['run'] == r]) for r, m, s in runs]
    else:
        roles = {int(r['rank']): text(r['role']) for r in trace['meta/ranks']}
        picked = [(f'rank {r} {roles.get(int(r), "")}'.strip(), events[events['rank'] == r])
                  for r in np.unique(events['rank'])]
    bars = []
    for label, rows in picked:
        medians = stage_medians(trace, rows)
        disk = medians.pop(DISK, 0)
        if sum(medians.values()) > 0:
            bars.append((label, medians, disk))
    return bars


def stage_colours(trace, bars):
    """The stages that take most get a colour each; the others are 'other'."""
    total = {}
    for _, medians, _ in bars:
        for name, ns in medians.items():
            total[name] = total.get(name, 0) + ns
    ranked = sorted(total, key=total.get, reverse=True)
    top = [n for n in ranked if total[n] > 0][:len(COLOURS)]
    lanes = dict(zip(trace.stage_names, (text(s) for s in trace.stages['lane'])))
    # The io lane last, so that its wait for the disk can be marked as the end of the bar.
    ordered = sorted((n for n in trace.stage_names if n in top), key=lambda n: lanes[n] == 'io')
    return {n: COLOURS[i] for i, n in enumerate(ordered)}


def panel_stages(trace):
    if not len(trace['events']):
        return None
    bars = stage_bars(trace)
    if not bars:
        return None

    def draw(ax):
        left_out = max(0, len(bars) - MAX_BARS)
        shown = bars[:MAX_BARS]
        colours = stage_colours(trace, shown)
        divisor, unit = scaled([sum(m.values()) for _, m, _ in shown], TIMES)
        y = np.arange(len(shown))
        start = np.zeros(len(shown))
        for name in ['other'] + list(colours):
            width = np.array([m.get(name, 0) if name != 'other' else
                              sum(v for k, v in m.items() if k not in colours)
                              for _, m, _ in shown]) / divisor
            if width.sum() > 0:
                ax.barh(y, width, left=start, height=0.62, label=name, edgecolor='white',
                        linewidth=0.5, color=colours.get(name, GREY))
            start += width
        disk = np.minimum(np.array([d for *_, d in shown]) / divisor, start)
        if disk.sum() > 0.005 * start.sum():
            ax.barh(y, disk, left=start - disk, height=0.62, color='none', edgecolor='#222222',
                    hatch='////', linewidth=0, label='waiting for the disk')
        ax.set_yticks(y, [label for label, *_ in shown])
        ax.invert_yaxis()
        ax.grid(axis='y', visible=False)
        ax.set_xlabel(f'measured time in a round, median over rounds ({unit})')
        ax.set_title('Where the time goes' +
                     (f' (first {MAX_BARS} of {len(bars)})' if left_out else ''))
        handles, labels = ax.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i] == 'other')
        ax.legend([handles[i] for i in order], [labels[i] for i in order], ncol=5,
                  loc='upper left', bbox_to_anchor=(0, -0.2), columnspacing=1.2, handlelength=1.2)
    return draw


def panel_bytes(trace):
    rows = trace['messages']
    rows = rows[rows['frame_bytes'] > 0] if len(rows) else rows
    if not len(rows):
        return None
    runs = trace.runs()

    def mean_parts(run):
        of_run = rows[rows['run'] == run]
        return [float(np.mean(of_run[p + '_bytes'])) if len(of_run) else 0 for p in PARTS]

    def draw_one(ax):
        parts = mean_parts(runs[0][0])
        divisor, unit = scaled(parts, BYTES)
        y = np.arange(len(PARTS))
        ax.barh(y, np.array(parts) / divisor, height=0.62, color=COLOURS[0])
        for k, v in enumerate(parts):
            ax.annotate(f'{100 * v / sum(parts):.1f}%', (v / divisor, k), xytext=(3, 0),
                        textcoords='offset points', va='center', color='#333333')
        ax.set_yticks(y, PARTS)
        ax.set_xlim(0, 1.2 * max(parts) / divisor)
        ax.set_xlabel(f'mean of an update frame ({unit})')

    def draw_many(ax):
        shown = runs[:MAX_BARS]
        table = np.array([mean_parts(r) for r, *_ in shown])
        divisor, unit = scaled(table.sum(1), BYTES)
        start = np.zeros(len(shown))
        for k, name in enumerate(PARTS):
            if table[:, k].sum() > 0:
                ax.barh(np.arange(len(shown)), table[:, k] / divisor, left=start, height=0.62,
                        color=COLOURS[k], edgecolor='white', linewidth=0.5, label=name)
            start += table[:, k] / divisor
        ax.set_yticks(np.arange(len(shown)), [run_label(m, s, r) for r, m, s in shown])
        ax.set_xlabel(f'mean of an update frame ({unit})')
        ax.legend(ncol=3, loc='upper left', bbox_to_anchor=(0, -0.2))

    def draw(ax):
        (draw_one if len(runs) == 1 else draw_many)(ax)
        ax.invert_yaxis()
        ax.grid(axis='y', visible=False)
        ax.set_title('Bytes by part')
    return draw


def caption(trace):
    runs = trace.runs()
    what = run_label(*runs[0][1:], 0) if len(runs) == 1 else f'{len(runs)} runs'
    state = '' if trace.attrs.get('complete') == '1' else ', not complete'
    lines = [f'{os.path.basename(trace.path)}{state}: {what}; {len(trace["rounds"])} rounds; fstq '
             f'{trace.attrs.get("suite_version", "?")} ({trace.attrs.get("git_rev", "?")}), '
             f'{trace.attrs.get("created_utc", "?")}']
    command = trace.attrs.get('command_line', '')
    if command:
        lines += textwrap.wrap('$ ' + command, 150)[:3]
    return '\n'.join(lines)


def draw_figure(trace):
    top = [p for p in (panel_loss(trace), panel_score(trace), panel_score_bytes(trace)) if p]
    low = [(p, w) for p, w in ((panel_stages(trace), 3), (panel_bytes(trace), 2)) if p]
    rows = [r for r in ([(p, 1) for p in top], low) if r]
    figure = plt.figure(figsize=(10, 0.6 + 3.0 * max(len(rows), 0.4)), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.04, hspace=0.06)
    figure.supxlabel(caption(trace), x=0.01, ha='left', fontsize=6.5, color='#555555',
                     family='monospace')
    if not rows:
        ax = figure.subplots()
        ax.axis('off')
        ax.text(0.5, 0.5, 'no rounds and no spans in this trace yet', ha='center', va='center')
        return figure
    areas = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for area, row in zip(areas, rows):
        axes = area.subplots(1, len(row), squeeze=False,
                             gridspec_kw={'width_ratios': [w for _, w in row]})[0]
        for ax, (draw, _) in zip(axes, row):
            draw(ax)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('trace', metavar='FILE.h5')
    parser.add_argument('out', metavar='OUT.png')
    args = parser.parse_args()
    try:
        trace = Trace(args.trace)
    except (OSError, KeyError, ValueError) as e:
        sys.exit(f'plot_run.py: {args.trace}: {e}')
    style(**{'lines.linewidth': 1.6, 'hatch.linewidth': 0.5})
    figure = draw_figure(trace)
    try:
        figure.savefig(args.out)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_run.py: {args.out}: {e}')
    print(f'# {args.out}')


if __name__ == '__main__':
    main()
