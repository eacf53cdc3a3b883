#!/usr/bin/python3
"""Does a figure of one round say how a federation ends?

plot_figures.py measure COMPARE.csv UPDATES OUT.csv
plot_figures.py draw PICTURE OUT.csv...

COMPARE.csv is what 'fstq compare CONFIG --csv' wrote, UPDATES the folder of a run with
trace.updates_of=all. Each method that is a codec alone (fedavg/CODEC, no residual, no choice of
tokens, no Fisher, which updates on disk do not have) is measured by 'fstq bench drift' on the
updates, in the mean over rounds: NMSE, the part of the adapter's way that survives, and how unlike
the gains of directions are. OUT.csv has that beside the score of COMPARE.csv; what is printed are
rank correlations (Spearman) of each figure with the score, over all methods and, since fewer bits
worsen all of them, without what bits explain of both. draw: a row of scatters for each OUT.csv.
"""
import argparse
import csv
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from plot_style import np, plt, style
from rank_correlation import with_score

FIGURES = (('nmse', 'NMSE of a message'), ('way', 'part of the way that survives'),
           ('uneven', 'unevenness of the gains'))


def codec_of(method):
    """The codec of a method that is nothing but a codec, or None."""
    m = re.fullmatch(r'fedavg/([^ @~{}|]+)', method.strip())
    codec = m.group(1) if m else None
    if codec is None or re.search(r'\+(ef|ef21)\b', codec):
        return None
    fisher = codec.startswith('fstq') and not re.search('importance=(magnitude|random)', codec)
    return None if fisher else codec


def drift(program, updates, rounds, ahead, codecs):
    """Of each codec, in the mean over rounds: bits, NMSE, way, unevenness of its gains."""
    found = {c: [] for c in codecs}
    for at in rounds:
        out = subprocess.run(
            [program, 'bench', 'drift', f'drift.updates={updates}', f'drift.round={at}',
             f'drift.ahead={ahead}', 'drift.methods=' + ';'.join(codecs), '-o', 'csv'],
            stdout=subprocess.PIPE, text=True, check=False)
        rows = list(csv.DictReader(x for x in out.stdout.splitlines() if not x.startswith('#')))
        if out.returncode or not rows:
            sys.exit(f'{os.path.basename(sys.argv[0])}: bench drift of round {at}: status '
                     f'{out.returncode}\n{out.stdout}')
        for row in rows:
            gains = np.array([float(v) for k, v in row.items() if k.startswith('gain')])
            found[row['Codec']].append((float(row['bits (/value)']), float(row['NMSE']),
                                        float(row['way (of fp32)']),
                                        gains.std() / max(abs(gains.mean()), 1e-9)))
    return {c: np.mean(v, axis=0) for c, v in found.items() if v}


def read(path):
    with open(path, encoding='utf-8') as f:
        return [{k: v if k == 'method' else float(v) for k, v in r.items()}
                for r in csv.DictReader(f)]


def draw(path, files):
    style()
    sets = [read(f) for f in files]
    bits = np.log2([r['bits'] for rows in sets for r in rows])
    fig, axes = plt.subplots(len(sets), 3, figsize=(8, 2.4 * len(sets)), sharey='row',
                             squeeze=False, layout='constrained')
    for k, rows in enumerate(sets):
        for ax, (key, label) in zip(axes[k], FIGURES):
            dots = ax.scatter([r[key] for r in rows], [r['score'] for r in rows], s=18,
                              c=np.log2([r['bits'] for r in rows]), vmin=bits.min(),
                              vmax=bits.max(), edgecolor='#333333', linewidth=0.4)
            if key == 'nmse' and max(r[key] for r in rows) > 3:
                ax.set_xscale('symlog', linthresh=1)
                ax.set_xticks([0, 1, 10, 100], labels=['0', '1', '10', '100'])
            ax.set_title('{:+.2f}, without bits {:+.2f}'.format(
                *with_score(rows, key)), fontsize=8)
            if k == len(sets) - 1:
                ax.set_xlabel(label)
        name = os.path.basename(files[k]).removeprefix('figures-').removesuffix('.csv')
        axes[k][0].set_ylabel(f'final score, {name}')
    bar = fig.colorbar(dots, ax=axes, pad=0.01)
    ticks = range(int(np.ceil(bits.min())), int(bits.max()) + 1)
    bar.set_ticks(list(ticks), labels=[f'{2.0**t:g}' for t in ticks])
    bar.set_label('bits per value')
    fig.savefig(path)


def measure(a):
    with open(a.compare, encoding='utf-8') as f:
        listed = list(csv.DictReader(f))
    score = next(k for k in listed[0] if k not in ('method', 'seeds')) if listed else None
    codecs = {r['method']: codec_of(r['expanded']) for r in listed}
    measured = drift(a.program, a.updates, a.rounds.split(','), a.ahead,
                     sorted({c for c in codecs.values() if c}))
    rows = []
    for r in listed:
        of = measured.get(codecs[r['method']])
        if of is not None and r[score]:
            rows.append({'method': r['method'], 'score': float(r[score]), 'bits': of[0],
                         'nmse': of[1], 'way': of[2], 'uneven': of[3]})
    if len(rows) < 4:
        sys.exit(f'{os.path.basename(sys.argv[0])}: {a.compare} has {len(rows)} methods that are a '
                 'codec alone; four are the least that can be ranked')
    with open(a.out, 'w', encoding='utf-8', newline='') as f:
        w = csv.DictWriter(f, rows[0].keys(), lineterminator='\n')
        w.writeheader()
        w.writerows({k: v if isinstance(v, str) else f'{v:.5g}' for k, v in r.items()}
                    for r in rows)
    print(f'{len(rows)} methods of {len(listed)}; bits with score '
          f'{with_score(rows, "bits")[0]:+.2f}')
    for key, label in FIGURES:
        alone, rest = with_score(rows, key)
        print(f'{label}: {alone:+.2f}, without bits {rest:+.2f}')


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    what = p.add_subparsers(dest='what', required=True)
    m = what.add_parser('measure', help='figures beside scores, and how they correlate')
    for name in ('compare', 'updates', 'out'):
        m.add_argument(name)
    m.add_argument('--program', default='build/release/fstq')
    m.add_argument('--rounds', default='10,20,30', help='whose updates are coded')
    m.add_argument('--ahead', default='20', help="rounds of the adapter's way")
    d = what.add_parser('draw', help='scatters')
    d.add_argument('picture')
    d.add_argument('csv', nargs='+')
    a = p.parse_args()
    if a.what == 'measure':
        measure(a)
    else:
        draw(a.picture, a.csv)


if __name__ == '__main__':
    main()
