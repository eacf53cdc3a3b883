#!/usr/bin/python3
"""Draws what codecs lose against what they send: plot_codecs.py OUT.png [codec.KEY=VALUE ...]

Runs `fstq bench codec` over every codec and a sweep of its main option, on the update that the
parameters choose (default: a million normal values), and draws error over bits per value. Codecs on
one line differ in one option. --json FILE draws what `fstq bench codec --json FILE` has written
instead. FSTQ=build/release/fstq names the program.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from plot_style import plt, style  # first: says what is missing
from matplotlib.patheffects import withStroke

# Okabe and Ito's colours: told apart with any kind of colour vision. Lines of one colour differ in
# marker and dash, and each is named where it ends.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK = (
    '#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#000000')
GREY = '#8A8A8A'

# codec: (the option that a line sweeps, colour by kind of codec)
KIND = {'fp16': ('', BLACK), 'bf16': ('', BLACK), 'int': ('bits', BLUE), 'nf4': ('', BLUE),
        'uniform': ('step', BLUE), 'qsgd': ('bits', RED), 'natural': ('levels', RED),
        'terngrad': ('', RED), 'sign': ('', GREEN), 'onebit': ('', GREEN), 'fedbat': ('', GREEN),
        'signsgd': ('', GREEN), 'threelc': ('sparsity', GREEN), 'eden': ('bits', PURPLE),
        'topk': ('ratio', ORANGE), 'randk': ('ratio', ORANGE), 'stc': ('ratio', ORANGE),
        'sbc': ('ratio', ORANGE), 'dgc': ('ratio', ORANGE), 'cocktail': ('ratio', ORANGE),
        'fstq': ('budget', SKY), 'fstq-paper': ('budget', SKY), 'powersgd': ('rank', GREY)}
WORDS = ((BLUE, 'rounded to nearest'), (RED, 'rounded at random'), (GREEN, 'signs and ternary'),
         (PURPLE, 'rotated'), (ORANGE, 'sparse'), (SKY, 'bits by importance'),
         (GREY, 'low rank, others'), (BLACK, 'half precision'))
MARKERS = 'osD^vP*X<>hd'
BOUND = (0, (1, 1.5))
DARKER = {SKY: '#1F78A4', ORANGE: '#A87000', GREY: '#606060', PURPLE: '#A85586'}  # as text
BITS = range(2, 9)
SPARSE = ('0.001', '0.003', '0.01', '0.03', '0.1', '0.3')
SWEEPS = (
    ['fp16', 'bf16', 'nf4', 'sign', 'onebit', 'fedbat', 'terngrad', 'terngrad:code=base3',
     'terngrad:code=rans', 'powersgd', 'natural', 'natural:code=rans']
    + [f'int:bits={b}' for b in BITS] + [f'int:bits={b},code=rans' for b in BITS]
    + [f'uniform:step={s}' for s in ('0.05', '0.1', '0.2', '0.5', '1', '1.5', '2', '3')]
    + [f'qsgd:bits={b},code=rans' for b in BITS] + [f'qsgd:bits={b},norm=max' for b in BITS]
    + [f'threelc:sparsity={s}' for s in ('1', '1.5', '1.9')]
    + [f'eden:bits={b}' for b in ('0.1', '0.3', '1', '2', '3', '4')]
    + [f'eden:bits={b},scale=mse' for b in ('0.1', '0.3', '1', '2', '3', '4')]
    + [f'{c}:ratio={r}' for c in ('topk', 'stc', 'sbc') for r in SPARSE]
    + [f'randk:ratio={r},unbiased=off' for r in SPARSE]
    + [f'cocktail:ratio={r}' for r in ('0.1', '0.3', '1')]
    + [f'fstq:importance=magnitude,budget={b}' for b in ('0.02', '0.05', '0.15', '0.3', '0.5')])


def measure(parameters, path):
    program = os.environ.get('FSTQ', 'build/release/fstq')
    command = [program, 'bench', 'codec', '--samples', '1', '--min-time', '1e-6', '--json', path,
               'codec.values=1048576', 'codec.draws=1', f'codec.methods={" ".join(SWEEPS)}']
    try:
        done = subprocess.run(command + parameters, capture_output=True, text=True)
    except OSError as e:
        sys.exit(f'plot_codecs.py: {program}: {e.strerror}; run make first, or set FSTQ')
    if done.returncode:
        wrong = [line for line in done.stdout.splitlines() if not line.endswith('Pass')]
        sys.exit('\n'.join(wrong[-5:]) + done.stderr + f'plot_codecs.py: status {done.returncode}')


def series_of(method):
    """What the line through this method is called, and its colour."""
    name, _, rest = method.partition(':')
    base, plus, wrappers = name.partition('+')
    if not plus and '+' in rest:
        rest, _, wrappers = rest.partition('+')
    if base in ('int2', 'int4', 'int8'):
        base = 'int'
    swept, colour = KIND.get(base, ('', GREY))
    options = [o for o in rest.split(',') if o and o.split('=')[0] != swept]
    label = base + (':' + ','.join(options) if options else '')
    return label + ('+' + wrappers if wrappers else ''), GREY if wrappers else colour


def read(path):
    """{label: (colour, [(bits, nmse)])}; exact codecs are left out."""
    with open(path, encoding='utf-8') as f:
        rows = json.load(f)['benchmarks']
    lines = {}
    for row in rows:
        if not row['name'].endswith('/encode_median') or row.get('error_occurred'):
            continue
        method = row['name'].removeprefix('codec/codec/').removesuffix('/encode_median')
        if row['nmse'] and row['bits_per_value']:
            label, colour = series_of(method)
            lines.setdefault(label, (colour, []))[1].append((row['bits_per_value'], row['nmse']))
    if not lines:
        sys.exit(f'plot_codecs.py: {path} has no codec rows')
    for _, points in lines.values():
        points.sort()
    return lines


def place(fig, ax, names):
    """Labels beside their points, each where it covers no label and as few points as can be."""
    renderer, point = fig.canvas.get_renderer(), fig.dpi / 72
    dots = [tuple(ax.transData.transform(p)) for _, _, points in names for p in points]
    taken = []
    spots = [(dx, dy, ha) for r in (7, 12, 18, 25, 33, 42, 52, 64, 78)
             for dx, dy, ha in ((r, 0, 0), (-r, 0, 1), (r, r, 0), (r, -r, 0), (-r, -r, 1),
                                (-r, r, 1), (0, r, 0.5), (0, -r, 0.5))]
    for label, colour, points in names:
        note = ax.annotate(label, points[0], xytext=(0, 0), textcoords='offset points',
                           va='center', fontsize=6.5, color=DARKER.get(colour, colour))
        size = note.get_window_extent(renderer)
        wide, tall = size.width + 2, size.height + 1
        best = None
        for k, at in enumerate((points[-1], points[0], points[len(points) // 2])):
            x0, y0 = ax.transData.transform(at)
            for dx, dy, ha in spots:
                left, low = x0 + dx * point - ha * wide, y0 + dy * point - tall / 2
                right, high = left + wide, low + tall
                cost = 0.5 * k + max(abs(dx), abs(dy)) / 8
                if left < ax.bbox.x0 or right > ax.bbox.x1 or low < ax.bbox.y0 or high > ax.bbox.y1:
                    cost += 1000
                cost += 40 * sum(left < b[2] and b[0] < right and low < b[3] and b[1] < high
                                 for b in taken)
                cost += 4 * sum(left - 3 < x < right + 3 and low - 3 < y < high + 3
                                for x, y in dots)
                if best is None or cost < best[0]:
                    best = (cost, at, dx, dy, ha, (left, low, right, high))
        _, at, dx, dy, ha, box = best
        taken.append(box)
        note.remove()
        ax.annotate(label, at, xytext=(dx, dy), textcoords='offset points', va='center',
                    ha={0: 'left', 1: 'right'}.get(ha, 'center'), fontsize=6.5,
                    path_effects=[withStroke(linewidth=2, foreground='white')],
                    color=DARKER.get(colour, colour),
                    arrowprops={'arrowstyle': '-', 'color': colour, 'lw': 0.5, 'shrinkA': 0,
                                'shrinkB': 3} if max(abs(dx), abs(dy)) > 7 else None)


def panel(fig, ax, lines, xlim, ylim):
    """The lines, as far as they reach into the limits, and their names."""
    curve = [xlim[0] * (xlim[1] / xlim[0]) ** (k / 400) for k in range(401)]
    ax.plot(curve, [4 ** -b for b in curve], color=GREY, lw=1, ls=BOUND, zorder=1)
    ax.set(xlim=xlim, ylim=ylim, xlabel='bits per value, all that is sent')
    used, names = {}, []
    for label, (colour, points) in lines.items():
        k = used[colour] = used.get(colour, -1) + 1
        ax.plot(*zip(*points), color=colour, marker=MARKERS[k % len(MARKERS)], ms=4.5, lw=1.1,
                ls=['-', '--', '-.', ':'][k % 4], mfc=colour if k % 2 == 0 else 'white', mew=1.1)
        seen = [(b, e) for b, e in points
                if xlim[0] <= b <= xlim[1] and ylim[0] <= e <= ylim[1]]
        if seen:
            names.append((label, colour, seen))
    place(fig, ax, sorted(names, key=lambda n: n[2][0]))
    return used


def draw(lines, out, title):
    style()
    fig, (few, many) = plt.subplots(1, 2, figsize=(13, 6.5), gridspec_kw={
        'left': 0.045, 'right': 0.99, 'bottom': 0.075, 'top': 0.9, 'wspace': 0.08})
    fig.suptitle(title, x=0.01, ha='left', weight='bold')
    bits = [b for _, points in lines.values() for b, _ in points]
    error = [e for _, points in lines.values() for _, e in points]
    few.set(xscale='log', title='Few bits', ylabel='NMSE, |x\u0302 − x|² / |x|²')
    many.set(yscale='log', title='More bits, logarithmic error')
    low, high = min(min(bits) / 1.5, 0.9), max(max(bits) + 1.5, 9)
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 2, 3) if low <= t <= 3.4]
    few.set_xticks(ticks, [f'{t:g}' for t in ticks])
    few.minorticks_off()
    used = panel(fig, few, lines, (low, 3.4), (0, 1.15))
    panel(fig, many, lines, (1.5, high), (min(error) / 3, 3))
    for colour, words in WORDS:
        if colour in used:
            few.plot([], [], color=colour, lw=3, label=words)
    few.plot([], [], color=GREY, lw=1, ls=BOUND, label='least for normal values, $4^{-b}$')
    few.legend(loc='lower left')
    fig.savefig(out, dpi=160)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', metavar='OUT.png', help='or .svg, .pdf')
    parser.add_argument('parameters', nargs='*', metavar='codec.KEY=VALUE',
                        help='for the benchmark, e.g. codec.dist=student3')
    parser.add_argument('--json', metavar='FILE', help='draw this instead of measuring')
    args = parser.parse_args()
    if args.json:
        lines = read(args.json)
    else:
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, 'codecs.json')
            measure(args.parameters, path)
            lines = read(path)
    what = ' '.join(args.parameters) or ('' if args.json else 'a million normal values')
    draw(lines, args.out, 'Error against size' + (f': {what}' if what else ''))
    points = sum(len(p) for _, p in lines.values())
    print(f'# {args.out}: {points} points on {len(lines)} lines')


if __name__ == '__main__':
    main()
