#!/usr/bin/python3
"""Draws what fewer tokens of a prompt cost and save: plot_infer.py OUT.png CSV...

Each CSV is what `fstq infer --csv` wrote; several, of the same settings with other seeds, become
means with the standard error over them. Drawn are speed-up against score, a line a reduction with
its points at every keep; where prompts are synthetic and have no score, speed-up against keep.
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
    """{(setting), {reduction: {keep: [row of each file]}}}"""
    groups = {}
    for path in paths:
        try:
            with open(path, newline='', encoding='utf-8') as f:
                rows = list(csv.DictReader(f))
        except OSError as e:
            sys.exit(f'plot_infer.py: {path}: {e.strerror}')
        if not rows or 'speedup' not in rows[0]:
            sys.exit(f'plot_infer.py: {path} is not what fstq infer --csv writes')
        base = [r for r in rows if r['reduce'] == 'none']
        for r in rows:
            if r['reduce'] == 'none' or not base:
                continue
            like = tuple(round(float(r[k])) for k in SAME)
            by = groups.setdefault(like, {}).setdefault(r['reduce'], {})
            by.setdefault(float(r['keep']), []).append(r)
            for b in base:
                if like[1:] == tuple(round(float(b[k])) for k in SAME[1:]):
                    groups[like].setdefault('none', {}).setdefault(1.0, []).append(b)
    if not groups:
        sys.exit('plot_infer.py: nothing to compare: give infer.reduce=none and another')
    return groups


def mean(rows, key):
    """Mean and standard error over files; None where it was not measured."""
    v = [float(r[key]) for r in rows if r[key] != '']
    if not v:
        return None
    return np.mean(v), np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else 0.0


def panel(ax, like, by):
    scored = mean(next(iter(by['none'].values())), 'score') is not None
    for name, look in LOOK.items():
        if name not in by:
            continue
        keeps = sorted(by[name], reverse=True)
        at = [mean(by[name][k], 'speedup') for k in keeps]
        to = [mean(by[name][k], 'score') if scored else at[i] for i, k in enumerate(keeps)]
        x = [a[0] for a in at] if scored else keeps
        y = [t[0] for t in to]
        ax.errorbar(x, y, yerr=[t[1] for t in to], xerr=[a[1] for a in at] if scored else None,
                    color=look[0], marker=look[1], linestyle=look[2], markersize=4, elinewidth=0.7,
                    label=name)
        for i in {0, len(keeps) - 1} if scored else ():
            ax.annotate(f'{keeps[i]:g}', (x[i], y[i]), xytext=(3, 3), textcoords='offset points',
                        fontsize=6, color=look[0])
    if scored:
        score = mean(by['none'][1.0], 'score')
        ax.plot([1], [score[0]], '*', color='black', markersize=8, label='all tokens')
        ax.axhspan(score[0] * 0.99, score[0], color='#F0F0F0', zorder=0, label='within 1 %')
        ax.set_xlabel('whole prompt and answer, times as fast as with all tokens')
        ax.set_ylabel('score of the task')
    else:
        ax.axhline(1, color='black', linewidth=0.8)
        ax.set_xlabel('part of the prompt that goes on')
        ax.set_ylabel('times as fast as with all tokens')
    layer, batch, prompt, new = like
    ax.set_title(f'from layer {layer}, batch {batch}, {prompt} + {new} tokens')


def main():
    if len(sys.argv) < 3 or sys.argv[1].startswith('-'):
        sys.exit(__doc__.strip())
    groups = read(sys.argv[2:])
    style()
    columns = min(len(groups), 2)
    lines = -(-len(groups) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 3.8 * lines), squeeze=False)
    for ax in axes.flat[len(groups):]:
        ax.axis('off')
    for ax, like in zip(axes.flat, sorted(groups)):
        panel(ax, like, groups[like])
    fig.tight_layout(rect=(0, 0, 1 - 1.1 / (5.2 * columns), 1))
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc='center right')
    fig.savefig(sys.argv[1])
    print(sys.argv[1])


if __name__ == '__main__':
    main()
