#!/usr/bin/python3
"""Holds the texts about results to the data beside them: results.py --check, or --print.

Tables and sentences of bench/results/*.md and README.md are made again from the files that
fstq compare wrote (bench/results/*.json, *.csv). --check: status 1 where a text says otherwise, or
where a section of a page with a table does not say where it is from: a line that begins with
"Source:" has its command (or "the command above"), "git" and a revision, the machine, and the file
with its data or "no data file".
"""
import csv
import json
import math
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_correlation import with_score

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(ROOT, 'bench', 'results')
# The 97.5% points of Student's t for 1 to 9 degrees of freedom.
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)

# Rows of the schemes' table: label, name of the method in its CSV.
SCHEMES = (('flexlora', 'flexlora'), ('lorafair', 'lorafair'), ('fedprox:mu=.01', 'fedprox'),
           ('feddyn:alpha=.1', 'feddyn'), ('fstq:budget=.0435', 'fstq'), ('rolora', 'rolora'),
           ('ranks 2, 4, 8: flexlora', 'ranks-flexlora'), ('ffa-lora', 'ffa-lora'),
           ('scaffold', 'scaffold'), ('scaffold/sub@fp32', 'ssf-incr'), ('ssf', 'ssf'),
           ('fed-sb', 'fed-sb'), ('fedadam', 'fedadam'), ('fedavgm', 'fedavgm'))

STANDARD = (('FedAvg, fp32', 'fp32'), ('`fstq`: 15 % of dense fp16', 'fstq-15'),
            ('5 % and error feedback', 'fstq-5+ef'), ('4.35 %', 'fstq-4.35'),
            ('the same, magnitude for Fisher', 'magnitude'),
            ("the same, Fisher's half of the tokens", 'fstq-4.35~fisher'),
            ('the same, a random half of the tokens', 'fstq-4.35~random'),
            ('the same, random support', 'random-support'),
            ('the same, fp16 values only', 'no-quantisation'), ('2 %', 'fstq-2'), ('1 %', 'fstq-1'),
            ('Fed-FSTQ to the letter, `fstq-paper`', 'fstq-paper'),
            ('to the letter, all tokens', 'paper-uniform-tokens'),
            ('to the letter, random tokens', 'paper-random-tokens'),
            ('to the letter, magnitude for Fisher', 'paper-magnitude'),
            ('to the letter, random support', 'paper-random-support'),
            ('one step for all, entropy-coded, `uniform`', 'uniform-46'),
            ('the same, `step=4`', 'uniform-step4'), ('EDEN at .7 bits', 'eden-46'),
            ('10 % ternary, `stc`', 'stc10'), ('signs', 'sign'))


# Rows of single updates: label, codec; numbers are cut out of both, for a row is a curve of steps.
UPDATES = (('EDEN', 'eden:bits=*'), ('NNC, trellis, a tensor a matrix', 'nnc:qp=*,trellis,each'),
           ('NNC, scalar, stacked', 'nnc:qp=*,scalar,stacked'),
           ('NNC, trellis, stacked', 'nnc:qp=*,trellis,stacked'),
           ('`uniform:group=class`', 'uniform:step=*,group=class'),
           ('the same, `dead=0.1,value=centre`',
            'uniform:step=*,group=class,dead=0.1,value=centre'),
           ('`fstq:importance=magnitude`', 'fstq:importance=magnitude,budget=*'),
           ('`stc`', 'stc:ratio=*,group=class,scale=bf16'), ('`klt`', 'klt:step=*'))

REAL_UPDATES = (('`uniform:group=class,dead=0.1,value=centre`',
                 'uniform:step=*,group=class,dead=0.1,value=centre'),
                ('`tcq`', 'tcq:step=*'), ('`stc`', 'stc:ratio=*,group=class,scale=bf16'),
                ('EDEN', 'eden:bits=*'),
                ('`fstq:importance=magnitude`', 'fstq:importance=magnitude,budget=*'),
                ('the same, `transform=klt`',
                 'fstq:importance=magnitude,transform=klt,budget=*'),
                ('`klt`', 'klt:step=*'),
                ('NNC, trellis, a tensor a matrix', 'nnc:qp=*,trellis,each'),
                ('NNC, trellis, stacked', 'nnc:qp=*,trellis,stacked'))


def places(v, sign=False):
    """Three places without the zero before the point, as the texts have them."""
    text = f'{v:+.3f}' if sign else f'{v:.3f}'
    return re.sub(r'^([+-]?)0\.', r'\1.', text)


def load_json(name):
    with open(os.path.join(DATA, name), encoding='utf-8') as f:
        return json.load(f)


def load_csv(name):
    with open(os.path.join(DATA, name), encoding='utf-8', newline='') as f:
        return {row['method']: row for row in csv.DictReader(f)}


def spread(row, column, sign=False):
    """A mean of a comparison's row and half of its interval; nothing where the row has none."""
    return row[column] and (f'{places(float(row[column]), sign)} ± '
                            f'{places(float(row[column + " ci95"]))}')


def interval(values):
    n = len(values)
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, STUDENT[n - 2] * deviation / math.sqrt(n)


class Comparison:
    """A comparison's JSON, by name of method."""

    def __init__(self, name):
        data = load_json(name)
        self.base = data['base']
        self.methods = {m['name']: m for m in data['methods']}

    def finals(self, name):
        return {r['seed']: r['final'] for r in self.methods[name]['runs']}

    def difference(self, a, b):
        """a - b, paired by seed, as the texts write it."""
        x, y = self.finals(a), self.finals(b)
        mean, half = interval([x[s] - y[s] for s in sorted(x)])
        small = abs(mean) < 5e-4
        return f'{places(abs(mean) if small else mean, not small)} ± {places(half)}'

    def less(self, name, target):
        """Times less uplink until that part of the base's score; '-': not every seed."""
        t = next(t for t in self.methods[name]['targets'] if t['target'] == target)
        if t['reached'] < len(self.methods[name]['runs']):
            return '-'
        return '1' if name == self.base else f'{t["uplink_ratio"]:.1f}'

    def smaller(self, name):
        """How many times smaller messages are than the base's."""
        return self.methods[self.base]['message_bytes'] / self.methods[name]['message_bytes']


def standard_rows(c):
    for label, name in STANDARD:
        m = c.methods[name]
        mean, half = interval(list(c.finals(name).values()))
        against = '' if name == c.base else ' ' + c.difference(name, c.base)
        yield (f'| {label} | {places(mean)} ± {places(half)} |{against} | '
               f'{m["message_bytes"]:,.0f} | {c.less(name, 0.6)} | {c.less(name, 0.9)} |')


def standard_sentences(c):
    least = min(c.smaller(n) for n in ('fstq-4.35', 'magnitude', 'uniform-46'))
    most = max(c.smaller(n) for n in ('fstq-4.35', 'magnitude', 'uniform-46'))
    small = ('fstq-4.35', 'magnitude', 'uniform-46')
    at = {t: sorted(float(c.less(n, t)) for n in small) for t in (0.6, 0.9)}
    below = sorted(-c.methods[n]['vs_base']['mean'] for n in small)
    yield f'- Messages {c.smaller("fstq-15"):.0f} times smaller cost nothing.'
    yield (f'- Messages {least:.0f} to {most:.0f} times smaller reach 60 % of FedAvg\'s score with '
           f'{at[0.6][0]:.0f} to {at[0.6][-1]:.0f} times less uplink, and 90 % with '
           f'{at[0.9][0]:.0f} to {at[0.9][-1]:.0f} times less, but end '
           f'{f"{below[0]:.2f}"[1:]} to {f"{below[-1]:.2f}"[1:]} below it.')
    yield (f'beats sending fewer in fp16 ({c.difference("fstq-4.35", "no-quantisation")}). Which '
           f'coordinates are sent matters ({c.difference("fstq-4.35", "random-support")} over '
           f'random ones).')
    yield (f'That Fisher chooses them better than magnitude is not shown: '
           f'{c.difference("fstq-4.35", "magnitude")} at 4.35 %, '
           f'{c.difference("fstq-paper", "paper-magnitude")} to the letter of the paper.')
    yield (f'Choosing tokens by Fisher is no better than choosing at random '
           f'({c.difference("fstq-4.35~fisher", "fstq-4.35~random")}), and no better than')
    ours = c.difference('fstq-15', 'fstq-paper').lstrip('+')
    yield f'our `fstq` is {ours} above the paper to the letter.'
    edges = sum(m['at_edge'] for m in c.methods.values())
    yield f'- {edges} of the {len(c.methods)} methods chose the largest step of the search'


def other_sentences():
    sgd, answers = load_csv('compare-sgd.csv'), load_csv('compare-long.csv')
    score = lambda row: spread(row, 'exact')
    gain = lambda row: spread(row, 'vs base', True)
    yield (f'| {score(sgd["fp32"])} | {gain(sgd["fstq-4.35"])} | magnitude '
           f'{gain(sgd["magnitude"])}; F untempered {gain(sgd["fstq-4.35-gamma1"])} |')
    yield (f'| {score(answers["fp32"])} | all tokens {score(answers["fstq-4.35"])} | Fisher\'s '
           f'half {score(answers["fstq-4.35~fisher"])}; a random half '
           f'{score(answers["fstq-4.35~random"])} |')
    codecs = load_csv('codecs.csv')
    at = lambda name: places(float(codecs[name]['score']))
    yield f'{len(codecs)} methods, 12 rounds, 2 seeds'
    yield f'FedAvg ends at {at("fp32")}.'
    yield (f'(QSGD by the L2 norm {at("qsgd-l2-4")}, top-k {at("topk-4")}, rank-1 PowerSGD '
           f'{at("powersgd-4")})')
    yield (f'`uniform`, a step with entropy coding, {at("uniform-1")}; EDEN {at("eden-1")}; `fstq` '
           f'{at("fstq-1")}; signs {at("sign-1")}; top-k {at("topk-1")}. TernGrad at 1.65 bits: '
           f'{at("terngrad-1.6")}.')
    yield (f'`fstq+ef` {at("fstq+ef-0.25")}, ternary with error feedback {at("stc+ef-0.25")}, SBC '
           f'{at("sbc+ef-0.25")}, `fstq` without {at("fstq-0.25")};')


def bits_at(points, nmse):
    """Bits a value between the steps next to an error; None outside of them."""
    points = sorted(points)
    for (a, low), (b, high) in zip(points, points[1:]):
        if a <= nmse <= b:
            return low + (nmse - a) / (b - a) * (high - low)
    return None


def update_cells(label, codec, curves, columns):
    """A row: a cell for each pair of (optimiser or model, round, NMSE)."""
    cells = []
    for at in columns:
        bits = [bits_at(curves.get((of, version, codec), []), nmse) for of, version, nmse in at]
        texts = ['-' if b is None else re.sub(r'^0\.', '.', f'{b:.2f}') for b in bits]
        cells.append('-' if texts == ['-', '-'] else ' / '.join(texts))
    return f'| {label} | {" | ".join(cells)} |'


def update_rows():
    curves = {}
    with open(os.path.join(DATA, 'updates.csv'), encoding='utf-8', newline='') as f:
        for row in csv.DictReader(f):
            codec = re.sub(r'(step|budget|bits|ratio|qp)=-?[\d.]+', r'\1=*', row['codec'])
            curves.setdefault((row['optimiser'], int(row['round']), codec), []).append(
                (float(row['nmse']), float(row['bits'])))
    for label, codec in UPDATES:
        yield update_cells(label, codec, curves,
                           ((('adamw', 10, 0.6), ('adamw', 50, 0.6)),
                            (('adamw', 10, 0.36), ('adamw', 50, 0.36)),
                            (('sgd', 10, 0.16), ('sgd', 10, 0.11))))
    for label, codec in REAL_UPDATES:
        yield update_cells(label, codec, curves,
                           [[('smollm2', version, nmse) for version in (1, 3)]
                            for nmse in (0.6, 0.36, 0.18)])


def scheme_rows():
    """The beginnings of the rows: what follows is rounded by hand."""
    data = load_csv('compare-schemes-quick.csv')
    yield f'| fp32 | {spread(data["fp32"], "exact")} | |'
    for label, name in SCHEMES:
        row = data[name]
        yield f'| {label} | {spread(row, "exact")} | {spread(row, "vs base", True)} |'


def score_rows():
    """Inference by scores sent, learned or drawn: exact match less that of all tokens."""
    cells, keeps = {}, ('0.9', '0.8', '0.7', '0.6')
    with open(os.path.join(DATA, 'infer-scores.csv'), encoding='utf-8', newline='') as f:
        for row in csv.DictReader(f):
            cells[row['scores'], row['reduce'], row['keep'], row['seed']] = float(
                row['exact_match'])
    seeds = sorted({key[3] for key in cells})
    kept = lambda how, keep: [cells[(*how, keep, s)] for s in seeds]
    less = lambda a, b: [x - y for x, y in zip(a, b)]
    whole = kept(('', 'none'), '1')

    def text(pairs):
        mean, half = interval(pairs)
        return f'{places(mean, True)} ± {places(half)}'
    for label, how in (('sent during the federation', ('sent', 'fisher')),
                       ('learned after it', ('learned', 'fisher'))):
        if (*how, keeps[0], seeds[0]) in cells:
            yield f'| {label} | ' + ' | '.join(
                text(less(kept(how, k), whole)) for k in keeps) + ' |'
    yield '| sent, against random tokens | ' + ' | '.join(
        text(less(kept(('sent', 'fisher'), k), kept(('', 'random'), k)))
        for k in keeps) + ' |'


def equal_rows():
    """Of each reduction what costs the most tokens of layers for at most 1 % of the score."""
    cells = {}
    with open(os.path.join(DATA, 'infer-equal.csv'), encoding='utf-8', newline='') as f:
        for r in csv.DictReader(f):
            cells.setdefault((r['reduce'], float(r['keep']), int(r['layer'])), []).append(
                float(r['exact_match']))
    whole = cells['none', 1, 0]
    less = {k: [x - y for x, y in zip(v, whole)] for k, v in cells.items() if k[0] != 'none'}
    for how in dict.fromkeys(k[0] for k in less):
        held = [k for k, v in less.items() if k[0] == how and sum(v) >= -.01 * sum(whole)]
        if not held:
            yield f'| `{how}` | none | |'
            continue
        best = max(held, key=lambda k: (round((1 - k[1]) * (3 - k[2]), 6), sum(less[k])))
        mean, half = interval(less[best])
        keep = f'{best[1]:g}'.lstrip('0')
        yield f'| `{how}` | {keep}, from layer {best[2]} | {places(mean, True)} ± {places(half)} |'


def corner_rows():
    """Schemes away from the standard setting: four comparisons beside each other."""
    data = [load_csv(f'compare-schemes-{name}.csv') for name in ('steps', '5', 'away', '5-away')]
    labels = {'fstq': 'fstq:budget=.0435', 'fedprox': 'fedprox:mu=.01', 'nesterov': 'diloco',
              'ranks': 'ranks 2, 4, 8: fedavg', 'ranks-flexlora': 'ranks 2, 4, 8: flexlora',
              'ranks-haflq': 'ranks 2, 4, 8: haflq', 'ranks-hetlora': 'ranks 2, 4, 8: hetlora',
              'ranks-frozen': 'ranks 2, 4, 8: fedavg, the rest frozen',
              'fp32-own': 'fedavg, clients\' own models', 'fedsa-own': 'fedsa-lora, the same'}
    for name in dict.fromkeys(n for d in data for n in d):
        cells = []
        for k, d in enumerate(data):
            row = d.get(name)
            cells.append(spread(row, 'exact') if row else '')
            if k == 0:
                cells.append(row['setting'].split('=')[1].lstrip('0') if row else '')
            cells.append(spread(row, 'vs base', True) if row else '')
        yield re.sub(r' +', ' ', f'| {labels.get(name, name)} | {" | ".join(cells)} |')


def subspace_rows():
    """Least squares with clients that hardly differ: at the end, and after so many bytes."""
    labels = {'fp32': 'fedavg/fp32', 'scaffold': 'scaffold/fp32', 'fstq': 'fedavg/fstq',
              'scaffold-fstq': 'scaffold/fstq;fp16'}
    four = lambda text: f'{float(text):.4f}'.lstrip('0') if text else ''
    for name, row in load_csv('compare-subspace-01.csv').items():
        if name in labels:
            cells = ' | '.join((f'{four(row["error"])} ± {four(row["error ci95"])}',
                                four(row['at 1.00 MB']), four(row['at 4.00 MB'])))
            yield re.sub(r' +', ' ', f'| `{labels[name]}` | {cells} |')


def side_rows():
    """The beginnings of the rows beside FedAvg."""
    labels = {'fedavg': 'fedavg/fp32', 'mobillm': 'mobillm:lr=3e-3/fp16',
              'pae': 'pae:lr=3e-3/fp16'}
    data = load_csv('side.csv')
    for name, label in labels.items():
        yield f'| `{label}` | {spread(data[name], "score")} |'


def type_rows():
    """The beginnings of the rows where the backbone knows what is asked."""
    labels = {'fedavg': '`fedavg/fp32`', 'splitlora': '`splitlora/fp32;fp16;fp16`',
              'split': '`split/fp16`', 'fwdllm': '`fwdllm/fp32`',
              'replay': '`replay` = `fedmobillm-barrier:replay=40/fp16`',
              'replay-nf4': '`replay-nf4`, the same in nf4', 'pae': '`pae/fp16`: no replay',
              'labels': '`pae:labels=on/fp16`', 'mobillm': '`mobillm/fp16`: all tokens'}
    data = load_csv('side-types.csv')
    for name, label in labels.items():
        row = data[name]
        both = (float(row['up bytes']) + float(row['down bytes'])) / 1e6
        cells = f'{spread(row, "score")} | {spread(row, "vs base", True)} | {both:.3g} MB'
        yield re.sub(r' +', ' ', f'| {label} | {cells} |')


def real_keep_rows(name, *keeps):
    """A real model that answers with fewer tokens: F1 by reduction and layer."""
    with open(os.path.join(DATA, name), encoding='utf-8', newline='') as f:
        score = {(r['reduce'], r['layer'], r['keep']): places(float(r['score']))
                 for r in csv.DictReader(f) if r['math'] == 'int8'}
    for how, layer in dict.fromkeys(k[:2] for k in score if k[0] != 'none'):
        yield f'| `{how}`, {layer} | ' + ' | '.join(score[how, layer, k] for k in keeps) + ' |'


def speed_rows():
    """CPU time with all tokens over that with a part of them, a row a mix of prompt and answer."""
    with open(os.path.join(DATA, 'infer-speed.csv'), encoding='utf-8', newline='') as f:
        rows = list(csv.DictReader(f))
    mixes = {}
    for row in rows:
        mixes.setdefault((row['prompt_tokens'], row['new_tokens']), []).append(
            float(row['cpu_s']))
    for (prompt, new), (whole, *parts) in mixes.items():
        cells = ' | '.join(f'{whole / part:.2f}' for part in parts)
        yield f'| {prompt} + {new}, `fisher` | {cells} |'


def figure_rows():
    """How figures of a round correlate with scores: a row a comparison."""
    text = lambda v: f'{v:+.2f}'.replace('0.', '.')
    for label, name in (('standard, tuned', 'figures-standard.csv'),
                        ('all codecs, untuned', 'figures-codecs.csv')):
        with open(os.path.join(DATA, name), encoding='utf-8', newline='') as f:
            rows = [{k: v if k == 'method' else float(v) for k, v in r.items()}
                    for r in csv.DictReader(f)]
        pairs = [with_score(rows, key) for key in ('nmse', 'way', 'uneven')]
        yield (f'| {label} | {len(rows)} | {text(with_score(rows, "bits")[0])} | ' +
               ' | '.join(f'{text(a)}, {text(b)}' for a, b in pairs) + ' |')


def readme_sentences(c):
    below = -c.methods['fstq-4.35']['vs_base']['mean']
    yield f'Messages {c.smaller("fstq-15"):.0f} times smaller than FedAvg\'s cost no accuracy.'
    yield (f'Messages {c.smaller("fstq-4.35"):.0f} times smaller reach 90 % of FedAvg\'s score '
           f'with {float(c.less("fstq-4.35", 0.9)):.0f} times less uplink, but end '
           f'{f"{below:.2f}"[1:]} below it')


def claims():
    """(file, what it has to say), by the data."""
    c = Comparison('compare-standard.json')
    page = os.path.join('bench', 'results', 'README.md')
    for text in (*standard_rows(c), *standard_sentences(c), *other_sentences(),
                 *update_rows(), *figure_rows()):
        yield page, text
    for text in readme_sentences(c):
        yield 'README.md', text
    for name, rows in (('schemes.md', (*scheme_rows(), *corner_rows(), *subspace_rows())),
                       ('infer.md', (*score_rows(), *equal_rows(),
                                    *real_keep_rows('infer-smollm2.csv', '0.8', '0.5'),
                                    *real_keep_rows('infer-smollm2-2.csv', '0.95', '0.8'),
                                    *speed_rows())),
                       ('side.md', (*type_rows(), *side_rows()))):
        for text in rows:
            yield os.path.join('bench', 'results', name), text


def one_line(text):
    return re.sub(r'\s+', ' ', text.replace('**', ''))


def check(root):
    """The claims that the files under root do not make."""
    texts, missing = {}, []
    for name, claim in claims():
        if name not in texts:
            with open(os.path.join(root, name), encoding='utf-8') as f:
                texts[name] = one_line(f.read())
        if one_line(claim) not in texts[name]:
            missing.append((name, claim))
    return missing


def sections(text):
    """(head, lines) of a page; what is indented is no head."""
    head, lines = '', []
    for line in text.split('\n'):
        if re.match(r'#+ ', line):
            yield head, lines
            head, lines = line.lstrip('# '), []
        lines.append(line)
    yield head, lines


def source_lacks(lines, folder):
    """What a section's line of its source does not say."""
    text = '\n'.join(lines)
    found = re.search(r'^Source: (.*?)(?:\n\n|\Z)', text, re.MULTILINE | re.DOTALL)
    if not found:
        return ['a line that begins with "Source:"']
    source = one_line(found[1])
    lacks = []
    above = re.search(r'the commands? above', source)
    own = r'`[^`]*(?:fstq|scripts/|bench/|build/)[^`]*`'
    if above:
        before = text[:found.start()]
        if not re.search(own, before) and not re.search(r'^    \S', before, re.MULTILINE):
            lacks.append('the command that it says stands above')
    elif not re.search(own, source):
        lacks.append('a command')
    if not re.search(r'\bgit [0-9a-f]{7,12}\b', source):
        lacks.append('"git" and a revision')
    if not re.search(r'core|GPU|board|machine', source):
        lacks.append('a machine')
    files = re.findall(r'`([\w./-]+\.(?:csv|json))`', source.partition('data:')[2])
    if not files and not re.search(r'no data file\b', source):
        lacks.append('a file with its data, or "no data file"')
    lacks += [f'{name}, which is not there' for name in files
              if not os.path.exists(os.path.join(folder, name))]
    return lacks


def check_sources(root):
    """(page, section, what is missing) of sections with tables."""
    folder = os.path.join(root, 'bench', 'results')
    for name in sorted(os.listdir(folder)):
        if not name.endswith('.md'):
            continue
        with open(os.path.join(folder, name), encoding='utf-8') as f:
            text = f.read()
        for head, lines in sections(text):
            if any(line.startswith('|') or line.startswith('Source:') for line in lines):
                for what in source_lacks(lines, folder):
                    yield name, head, what


def main():
    if sys.argv[1:2] == ['--print']:
        for name, claim in claims():
            print(f'{name}: {claim}')
        return
    if sys.argv[1:2] != ['--check'] or len(sys.argv) > 3:
        sys.exit('usage: results.py --check [ROOT] | --print')
    root = sys.argv[2] if len(sys.argv) > 2 else ROOT
    missing, unsaid = check(root), list(check_sources(root))
    for name, head, what in unsaid:
        print(f'results.py: {name}, "{head}" lacks {what}', file=sys.stderr)
    for name, claim in missing:
        print(f'results.py: {name} does not say, as the data do:\n    {claim}', file=sys.stderr)
    print(f'# {len(list(claims()))} tables\' rows and sentences, {len(missing)} differ; '
          f'{len(unsaid)} sources lack something')
    sys.exit(bool(missing or unsaid))


if __name__ == '__main__':
    main()
