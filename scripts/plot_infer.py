#!/usr/bin/python3
"""Draws what fewer tokens of a prompt cost and save: plot_infer.py [--cpu] OUT.png CSV...

Each CSV is what `fstq infer --csv` wrote; several, of the same settings with other seeds, become
means, with the standard error of the difference that a reduction makes in each. Drawn are speed-up
against score, a line a reduction with its points at every keep; where prompts are synthetic and
have no score, speed-up against keep. --cpu: speed-up in CPU time, where the machine was busy.
"""
import csv
import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from plot_style import np, plt, style  # first: says what is missing

# Okabe and Ito's colours; marker and dash differ, too.
LOOK = {'fisher': ('#0072B2', 'o', '-'), 'gradnorm': ('#56B4E9', 's', '--'),
        'attention': ('#D55E00', '^', '-'), 'random': ('#8A8A8A', 'x', ':'),
        'merge': ('#009E73', 'D', '-'), 'first': ('#CC79A7', 'v', '--'),
        'last': ('#E69F00', 'P', '--')}
SAME = ('layer', 'batch', 'prompt_tokens', 'new_tokens')


def read(paths):
    """{setting: {reduction: {keep: [(row, the one without a reduction) of each file]}}}"""
    groups = {}
    for path in paths:
        try:
            with open(path, newline='', encoding='utf-8') as f:
                rows = list(csv.DictReader(f))
        except OSError as e:
            sys.exit(f'plot_infer.py: {path}: {e.strerror}')
        if not rows or 'speedup' not in rows[0]:
            sys.exit(f'plot_infer.py: {path} is not what fstq infer --csv writes')
        for r in rows:
            like = tuple(round(float(r[k])) for k in SAME)
            base = [b for b in rows if b['reduce'] == 'none' and
                    like[1:3] == tuple(round(float(b[k])) for k in SAME[1:3])]
            # Answers of a task end when they end; synthetic ones are as long as that beside them.
            base = [b for b in base if round(float(b['new_tokens'])) == like[3]] or base
            if r['reduce'] == 'none' or not base:
                continue
            like = like[:3] + (round(float(base[0]['new_tokens'])),)
            by = groups.setdefault(like, {}).setdefault(r['reduce'], {})
            by.setdefault(float(r['keep']), []).append((r, base[0]))
    if not groups:
        sys.exit('plot_infer.py: nothing to compare: give infer.reduce=none and another')
    return groups


def mean(values):
    """Mean and standard error over files; None where nothing was measured."""
    v = [x for x in values if x is not None]
    if not v:
        return None
    return np.mean(v), np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else 0.0


def speed(r, base, cpu):
    return float(base['cpu_s']) / float(r['cpu_s']) if cpu else float(r['speedup'])


def score(r, base):
    return float(r['score']) - float(base['score']) if r['score'] else None


def panel(ax, like, by, cpu):
    scored = mean([score(r, b) for rows in next(iter(by.values())).values() for r, b in rows])
    for name, look in LOOK.items():
        if name not in by:
            continue
        keeps = sorted(by[name], reverse=True)
        at = [mean([speed(r, b, cpu) for r, b in by[name][k]]) for k in keeps]
        to = [mean([score(r, b) for r, b in by[name][k]]) if scored else a
              for k, a in zip(keeps, at)]
        x, y = [a[0] for a in at] if scored else keeps, [t[0] for t in to]
        ax.errorbar(x, y, yerr=[t[1] for t in to], color=look[0], marker=look[1],
                    linestyle=look[2], markersize=4, elinewidth=0.7, label=name)
        for i in {0, len(keeps) - 1} if scored else ():
            ax.annotate(f'{keeps[i]:g}', (x[i], y[i]), xytext=(3, 3), textcoords='offset points',
                        fontsize=6, color=look[0])
    of = 'CPU time' if cpu else 'time'
    if scored:
        pairs = next(iter(next(iter(by.values())).values()))
        full = np.mean([float(b['score']) for _, b in pairs])
        ax.plot([1], [0], '*', color='black', markersize=8, label='all tokens')
        ax.axhspan(-0.01 * full, 0, color='#F0F0F0', zorder=0, label='within 1 %')
        ax.set_xlabel(f'speed-up of prompt and answer, by {of}')
        ax.set_ylabel(f'score less that with all tokens, {full:.3f}')
    else:
        ax.axhline(1, color='black', linewidth=0.8)
        ax.set_xlabel('part of the prompt that goes on')
        ax.set_ylabel(f'speed-up of prompt and answer, by {of}')
    layer, batch, prompt, new = like
    ax.set_title(f'from layer {layer}, batch {batch}, {prompt} + {new} tokens')


def main():
    words = [w for w in sys.argv[1:] if w != '--cpu']
    cpu = len(words) < len(sys.argv) - 1
    if len(words) < 2 or words[0].startswith('-'):
        sys.exit(__doc__.strip())
    groups = read(words[1:])
    style()
    columns = min(len(groups), 2)
    lines = -(-len(groups) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 3.8 * lines), squeeze=False)
    for ax in axes.flat[len(groups):]:
        ax.axis('off')
    for ax, like in zip(axes.flat, sorted(groups)):
        panel(ax, like, groups[like], cpu)
    fig.tight_layout(rect=(0, 0, 1 - 1.1 / (5.2 * columns), 1))
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc='center right')
    fig.savefig(words[0])
    print(words[0])


if __name__ == '__main__':
    main()
