#!/usr/bin/python3
"""Draws a comparison: plot_compare.py COMPARE.json OUT.png (or .svg, .pdf).

COMPARE.json is what 'fstq compare CONFIG --json COMPARE.json' wrote. Score over rounds and over
cumulative uplink, a line the mean over seeds and a band its 95% confidence interval; the final
score of each method, and how many times less uplink than the base it takes to a target. Of two
seeds an interval says little: then they are drawn as thin lines.
"""
import argparse
import json
import os
import sys
import textwrap

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from plot_style import BYTES, np, plt, style

# Okabe and Ito's colours: told apart with any kind of colour vision; then by dash and marker.
COLOURS = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#8A7F00']
BASE = '#222222'
DASHES = ['-', '--', ':', '-.']
MARKERS = ['o', 's', '^', 'D', 'v']


def student_975(degrees):
    """As the program computes it: the 97.5% point of Student's t."""
    few = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
           2.060, 2.056, 2.052, 2.048, 2.045, 2.042]
    return few[degrees - 1] if degrees <= len(few) else 1.96 + 2.4 / degrees


def trailing(values, n):
    """Mean of each value and the n - 1 before it, of fewer at the start."""
    v = np.array([np.nan if x is None else x for x in values], float)
    return np.array([v[max(0, i + 1 - n):i + 1].mean() for i in range(len(v))])


def band(curves):
    """Mean over seeds and half of its 95% interval; (seeds, points) in, NaN half below three."""
    y = np.vstack(curves)
    mean = y.mean(axis=0)
    if len(y) < 3:
        return mean, np.full(len(mean), np.nan)
    return mean, student_975(len(y) - 1) * y.std(axis=0, ddof=1) / np.sqrt(len(y))


class Method:
    """What is drawn of a method: its curves over seeds, colour, dash and marker."""

    def __init__(self, data, k, is_base, window):
        self.data = data
        self.name = data['name']
        self.colour = BASE if is_base else COLOURS[k % len(COLOURS)]
        self.dash = '-' if is_base else DASHES[(k // len(COLOURS)) % len(DASHES)]
        self.marker = '*' if is_base else MARKERS[k % len(MARKERS)]
        runs = [r for r in data['runs'] if r['round']]
        n = min((len(r['round']) for r in runs), default=0)
        self.n = n
        if n:
            self.round = np.array(runs[0]['round'][:n], float)
            self.uplink = np.mean([r['uplink_bytes'][:n] for r in runs], axis=0)
            self.seeds = [trailing(r['score'][:n], window) for r in runs]
            self.mean, self.half = band(self.seeds)

    def draw(self, ax, x):
        ax.plot(x, self.mean, self.dash, color=self.colour, label=self.name, marker=self.marker,
                markersize=4 if self.marker != '*' else 6, markevery=max(1, self.n // 8))
        if np.isfinite(self.half).all():
            ax.fill_between(x, self.mean - self.half, self.mean + self.half, color=self.colour,
                            alpha=0.10, linewidth=0)
        elif len(self.seeds) > 1:
            for y in self.seeds:
                ax.plot(x, y, '-', color=self.colour, linewidth=0.6, alpha=0.5)


def limit_to_curves(ax, methods):
    """Bands of two seeds reach far: the axis follows the means, with some room."""
    low = min(m.mean.min() for m in methods)
    high = max(m.mean.max() for m in methods)
    room = 0.12 * (high - low) or 0.1
    ax.set_ylim(low - room / 2, high + room)


def panel_rounds(ax, data, methods):
    for m in methods:
        m.draw(ax, m.round)
    limit_to_curves(ax, methods)
    ax.set_xlabel('round')
    ax.set_ylabel(data['score'])
    ax.set_title('Score by round')


def panel_uplink(ax, data, methods):
    base = [m for m in methods if m.name == data['base']]
    for m in methods:
        m.draw(ax, m.uplink)
    limit_to_curves(ax, methods)
    ax.set_xscale('log')
    top = ax.get_xlim()[1]
    divisor, unit = next(((d, u) for d, u in BYTES if top >= d), BYTES[-1])
    ax.xaxis.set_major_formatter(lambda v, _: f'{v / divisor:g}')
    ax.set_xlabel(f'uplink of all clients so far ({unit}, log)')
    ax.set_ylabel(data['score'])
    ax.set_title('Score by uplink')
    if base:
        final = base[0].data['final']['mean']
        for t in base[0].data['targets']:
            if final is not None and data['higher_is_better']:
                y = t['target'] * final
                ax.axhline(y, color='#9A9A9A', linewidth=0.7, linestyle=':')
                ax.annotate(f'{100 * t["target"]:g}% of {data["base"]}', xy=(1, y),
                            xycoords=('axes fraction', 'data'), ha='right', va='bottom',
                            fontsize=6, color='#777777')


def panel_final(ax, data, methods):
    y = np.arange(len(methods))
    for i, m in enumerate(methods):
        mean, half = m.data['final']['mean'], m.data['final']['ci95']
        for r in m.data['runs']:
            if r['final'] is not None:
                ax.plot(r['final'], i, '|', color=m.colour, markersize=7, alpha=0.6)
        if mean is not None:
            ax.errorbar(mean, i, xerr=half, fmt=m.marker, color=m.colour, markersize=5,
                        capsize=2.5, linewidth=1)
    shown = [r['final'] for m in methods for r in m.data['runs'] if r['final'] is not None]
    if shown:
        room = 0.25 * (max(shown) - min(shown)) or 0.1
        ax.set_xlim(min(shown) - room, max(shown) + room)
    ax.set_yticks(y, [m.name for m in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_xlabel(f'{data["score"]}, mean of the last {data["last"]} evaluations')
    ax.set_title('Final score (| a seed, bar 95% interval)')


def panel_ratio(ax, data, methods):
    """Bars of the uplink ratio to each target; one that not every seed reaches says how many do."""
    targets = [t['target'] for t in methods[0].data['targets']]
    height = 0.8 / len(targets)
    for i, m in enumerate(methods):
        for k, t in enumerate(m.data['targets']):
            y = i - 0.4 + (k + 0.5) * height
            ratio, seeds = t['uplink_ratio'], len(m.data['runs'])
            whole = t['reached'] == seeds
            if ratio is not None:
                ax.barh(y, ratio, height=0.9 * height, color=m.colour if whole else 'white',
                        edgecolor=m.colour, alpha=1 if k == 0 else 0.6, linewidth=0.8)
            text = f'{ratio:.3g}x' if ratio is not None else 'not reached'
            if not whole and ratio is not None:
                text += f' ({t["reached"]} of {seeds} seeds)'
            ax.annotate(f'{100 * t["target"]:g}%: {text}', xy=(ratio or 0, y), xytext=(3, 0),
                        textcoords='offset points', va='center',
                        fontsize=6 if len(methods) < 15 else 4.5)
    ax.set_yticks(np.arange(len(methods)), [m.name for m in methods])
    ax.margins(x=0.35)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis='y', visible=False)
    ax.set_xlabel(f'times less uplink than {data["base"]}')
    ax.set_title(f'Uplink to a part of {data["base"]}\'s final score')


def caption(data, methods):
    seeds = max(len(m.data['runs']) for m in methods)
    lines = [f'{os.path.basename(data["config"])}: {len(methods)} methods, {seeds} seeds; lines '
             f'are means of {data["trailing"]} evaluations over seeds, '
             f'{"bands 95% intervals" if seeds > 2 else "thin ones the seeds"}; fstq '
             f'{data["suite_version"]} ({data["git_rev"]})',
             f'$ fstq compare {data["config"]}']
    return '\n'.join(line for text in lines for line in textwrap.wrap(text, 150))


def draw_figure(data):
    methods = [Method(m, k, m['name'] == data['base'], data['trailing'])
               for k, m in enumerate(data['methods'])]
    methods = [m for m in methods if m.n]
    if not methods:
        sys.exit('plot_compare.py: no run with a score in it yet')
    has_targets = bool(methods[0].data['targets'])
    low = max(2.2, 0.26 * len(methods) * max(1, len(methods[0].data['targets']) * 0.62))
    figure = plt.figure(figsize=(10, 4.3 + low), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.04, hspace=0.05)
    figure.supxlabel(caption(data, methods), x=0.01, ha='left', fontsize=6.5, color='#555555',
                     family='monospace')
    columns = min(6, len(methods))
    head = 0.16 * -(-len(methods) // columns)
    grid = figure.add_gridspec(3, 2, height_ratios=[head, 3.4, low])
    axes = np.array([[figure.add_subplot(grid[i, k]) for k in (0, 1)] for i in (1, 2)])
    panel_rounds(axes[0, 0], data, methods)
    panel_uplink(axes[0, 1], data, methods)
    panel_final(axes[1, 0], data, methods)
    if has_targets:
        panel_ratio(axes[1, 1], data, methods)
    else:
        axes[1, 1].axis('off')
    key = figure.add_subplot(grid[0, :])
    key.axis('off')
    key.legend(*axes[0, 0].get_legend_handles_labels(), loc='center', ncol=columns,
               columnspacing=1.6, handlelength=2.6, borderpad=0)
    return figure


def keep_only(data, names):
    unknown = set(names) - {m['name'] for m in data['methods']}
    if unknown:
        sys.exit(f'plot_compare.py: no method named {", ".join(sorted(unknown))} in it')
    names = {*names, data['base']}
    data['methods'] = [m for m in data['methods'] if m['name'] in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', metavar='COMPARE.json')
    parser.add_argument('out', metavar='OUT.png')
    parser.add_argument('--only', metavar='NAME,...', help='these methods, the base included')
    args = parser.parse_args()
    try:
        with open(args.data, encoding='utf-8') as f:
            data = json.load(f)
        if args.only:
            keep_only(data, args.only.split(','))
        style()
        figure = draw_figure(data)
    except (OSError, ValueError, KeyError, TypeError) as e:
        sys.exit(f'plot_compare.py: {args.data}: {type(e).__name__}: {e}; it takes what "fstq '
                 f'compare CONFIG --json FILE" writes')
    try:
        figure.savefig(args.out)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_compare.py: {args.out}: {e}')
    print(f'# {args.out}')


if __name__ == '__main__':
    main()
