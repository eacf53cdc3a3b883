"""The figures of fstq's report. Each takes the series of a report and gives a Figure, or None where
the traces do not hold what it shows."""
import csv
import io
import os
import re

from report_svg import (BYTES, DASHES, JOULES, MARKERS, MEBI, N_COLOURS, RATES, TIMES, Axis, Frame,
                        Key, Svg, esc, known, number, shorten, stacked_bars, ticks, unit_of,
                        with_unit)

PARTS = ('values', 'indices', 'tags', 'scales', 'directory', 'header')
STAGES = ('train', 'encode', 'decode', 'aggregate', 'evaluate', 'transfer')
MOVES = ('broadcast', 'download', 'upload')  # stages that are transfer
OTHERS = 'other'
NO_LIMIT = 1e14  # bit/s: what configs say for a link that is none
WIDE = 460  # of the grid of layers and matrices
GANTT = ('download', 'compute', 'encode', 'transfer', 'decode', 'wait')


def colour(i):
    return 'var(--base)' if i < 0 else f'var(--s{i % N_COLOURS})'


def palette(names):
    """Colours of parts; what only fills up is grey."""
    out = {name: f'var(--s{i % N_COLOURS})' for i, name in enumerate(names)}
    out.update({OTHERS: 'var(--idle)', 'wait': 'var(--idle)'})
    return out


class Series:
    """A method of a comparison, or a run: what is drawn of it, and how."""

    def __init__(self, name, place, is_base):
        self.name, self.is_base = name, is_base
        k = -1 if is_base else place
        self.colour = colour(k)
        self.dash = '' if is_base else DASHES[place // N_COLOURS % len(DASHES)]
        self.marker = MARKERS[(k + 1) % len(MARKERS)]
        self.round = self.mean = self.half = self.bytes = self.time = ()
        self.seeds = []   # of few seeds the curves themselves, for an interval would say little
        self.message = self.final = self.final_half = None
        self.bits = self.nmse = None
        self.verdict = ''
        self.run = None   # the trace of its first seed, where it is there

    def key(self):
        return Key(self.name, self.colour, self.marker, self.dash)


class Figure:
    """Panels (title, svg), a caption, and the numbers as rows for a CSV file."""

    def __init__(self, name, title, caption, rows, panels, key=()):
        self.name, self.title, self.caption = name, title, caption
        self.rows, self.panels, self.key = rows, panels, key

    def csv(self):
        out = io.StringIO()
        csv.writer(out).writerows(['' if isinstance(v, float) and not known(v) else v for v in row]
                                  for row in self.rows)
        return out.getvalue()


def traced(series):
    return [s for s in series if s.run]


def curve_panel(series, score, x_of, x_name, units, log):
    drawn = [(s, x_of(s)) for s in series if len(s.mean) and any(known(v) for v in x_of(s))]
    drawn = [(s, x) for s, x in drawn if not log or max(v for v in x if known(v)) > 0]
    if not drawn:
        return None
    means = [v for s, _ in drawn for v in s.mean if known(v)]
    if not means:
        return None
    positive = [v for _, x in drawn for v in x if known(v) and v > 0]
    log = log and max(positive) > 20 * min(positive)
    svg = Svg(270, f'{score} by {x_name}')
    seeds = [v for s, _ in drawn for seed in s.seeds for v in seed if known(v)]
    room = 0.1 * (max(means) - min(means))
    frame = Frame(svg, [v for _, x in drawn for v in x], means, log, units,
                  y_range=[min([min(means) - room, *seeds]), max([max(means) + room, *seeds])])
    frame.draw(x_name + (', log' if log else ''), score, whole=units is None)
    at = lambda x, y: [(frame.x.at(a), frame.y.at(b)) for a, b in zip(x, y)
                       if known(a) and known(b) and (not log or a > 0)]
    for s, x in drawn:
        if s.half and all(known(h) for h in s.half):
            svg.area(at(x, [m + h for m, h in zip(s.mean, s.half)]),
                     at(x, [m - h for m, h in zip(s.mean, s.half)]), s.colour)
        for seed in s.seeds:
            svg.path(at(x, seed), s.colour, width=0.8, opacity=0.45)
    for s, x in drawn:
        svg.path(at(x, s.mean), s.colour, s.dash)
        step = max(1, len(s.mean) // 6)
        for i in range(len(s.mean) - 1, -1, -step):
            for place in at(x[i:i + 1], s.mean[i:i + 1]):
                svg.marker(*place, s.marker, s.colour,
                           title=f'{s.name}: {score} {number(s.mean[i], 4)}')
    return svg.render()


def less_is_better(higher):
    return '' if higher else ' Less is better.'


def curves(series, score, higher, time_name, few_seeds):
    """Score by round, by bytes and by time."""
    panels = []
    for title, x_of, x_name, units, log in (
            ('By round', lambda s: s.round, 'round', None, False),
            ('By bytes', lambda s: s.bytes, 'uplink of all clients so far', BYTES, True),
            ('By time', lambda s: s.time, time_name, TIMES, False)):
        svg = curve_panel(series, score, x_of, x_name, units, log)
        if svg:
            panels.append((title, svg))
    if not panels:
        return None
    rows = [('series', 'round', score, 'ci95_half', 'uplink_bytes', 'time_ns')]
    for s in series:
        for i, v in enumerate(s.mean):
            rows.append((s.name, s.round[i], v, s.half[i] if s.half else '', s.bytes[i], s.time[i]))
    band = {None: '', True: ' Thin lines are the seeds.',
            False: ' Bands are 95% intervals of the mean over seeds.'}[few_seeds]
    return Figure('score', f'{score[:1].upper()}{score[1:]} by round, bytes and time',
                  ('Lines are means of the last evaluations over seeds.' + band
                   if few_seeds is not None else 'One line a run.') + less_is_better(higher),
                  rows, panels, [s.key() for s in series])


def frontier(points, higher):
    """Those that no other beats in both bytes and score, by bytes."""
    best, out = None, []
    for x, y, s in sorted(points, key=lambda p: (p[0], -p[1] if higher else p[1])):
        if best is None or (y > best if higher else y < best):
            out.append((x, y, s))
            best = y
    return out


def place_labels(frame, points):
    """(x, y, anchor, series): below one another where they would lie over each other or over the
    marker of another."""
    markers = [(frame.x.at(x) - 6, frame.y.at(y) + 4, 12, s) for x, y, s in points]
    taken, out = [], []
    for x, y, s in sorted(points, key=lambda p: -p[1]):
        px, py = frame.x.at(x), frame.y.at(y)
        others = [m[:3] for m in markers if m[3] is not s]
        left = px > (frame.left + frame.right) / 2
        width = 7 * min(len(s.name), 18)
        lx = px - 8 - width if left else px + 8
        ly = py - 4
        while any(abs(ly - ty) < 13 and lx < tx + tw and tx < lx + width
                  for tx, ty, tw in taken + others):
            ly += 5
        taken.append((lx, ly, width))
        out.append((px - 8 if left else px + 8, ly, 'end' if left else 'start', s))
    return out


def pareto(series, score, higher):
    points = [(s.message, s.final, s) for s in series if known(s.message) and known(s.final)
              and s.message > 0]
    if len(points) < 2:
        return None
    ends = [v + sign * s.final_half for _, v, s in points if known(s.final_half)
            for sign in (-1, 1)]
    scores = [y for _, y, _ in points]
    room = max(scores) - min(scores) or 1
    ends = [max(min(v, max(scores) + room), min(scores) - room) for v in ends]
    svg = Svg(290, 'Pareto frontier')
    frame = Frame(svg, [x for x, _, _ in points], scores + ends, True, BYTES)
    frame.draw('a message of one client, log', score)
    steps = []
    for x, y, _ in frontier(points, higher):
        if steps:
            steps.append((frame.x.at(x), steps[-1][1]))
        steps.append((frame.x.at(x), frame.y.at(y)))
    steps.append((frame.right, steps[-1][1]))
    svg.path(steps, 'var(--faint)', '4 3', 1.4)
    for x, y, s in points:
        if known(s.final_half):
            a, b = frame.y.at(y - s.final_half), frame.y.at(y + s.final_half)
            svg.add(f'<line clip-path="url(#{svg.id})" x1="{frame.x.at(x):.1f}" y1="{a:.1f}" '
                    f'x2="{frame.x.at(x):.1f}" y2="{b:.1f}" '
                    f'style="stroke:{s.colour};stroke-width:1.2;opacity:.6"/>')
        svg.marker(frame.x.at(x), frame.y.at(y), s.marker, s.colour, 4.5,
                   f'{s.name}: {number(y, 4)} with {with_unit(x, BYTES)} a message')
    for x, y, anchor, s in place_labels(frame, points):
        svg.text(x, y, shorten(s.name, 18), anchor, 'tick', title=s.name)
    rows = [('series', 'message_bytes', score, 'ci95_half', 'on_frontier')]
    on = {id(s) for _, _, s in frontier(points, higher)}
    rows += [(s.name, x, y, s.final_half, int(id(s) in on)) for x, y, s in points]
    return Figure('pareto', 'Bytes against score',
                  'The final score, bars its 95% interval; the dashed line joins what nothing '
                  'beats in both bytes and score.' + less_is_better(higher), rows,
                  [('', svg.render())])


def distortion(series):
    """What an update loses by what it takes."""
    points = [(s.bits, s.nmse, s) for s in series if known(s.bits) and known(s.nmse)
              and s.bits > 0 and s.nmse > 0]
    if len(points) < 2:
        return None
    svg = Svg(270, 'Rate and distortion')
    frame = Frame(svg, [x for x, _, _ in points], [y for _, y, _ in points], True,
                  y_log=min(y for _, y, _ in points) < 0.02)
    frame.draw('bits a value, log', 'NMSE' + (', log' if frame.y.log else ''))
    for x, y, s in points:
        svg.marker(frame.x.at(x), frame.y.at(y), s.marker, s.colour, 4.5,
                   f'{s.name}: NMSE {number(y)} at {number(x)} bits a value')
    for x, y, anchor, s in place_labels(frame, points):
        svg.text(x, y, shorten(s.name, 18), anchor, 'tick', title=s.name)
    exact = [s.name for s in series if known(s.nmse) and s.nmse == 0]
    note = f' Nothing is lost by {", ".join(exact)}.' if exact else ''
    return Figure('distortion', 'Rate and distortion',
                  'Squared error of the decoded updates over their squares, median over messages, '
                  'against all bits of a message.' + note,
                  [('series', 'bits_per_value', 'nmse'), *((s.name, x, y) for x, y, s in points)],
                  [('', svg.render())])


def swept(methods):
    """The one option whose number differs between methods that are else the same, and the groups
    of three and more: {written-out method: [(number, method)]}."""
    groups, keys = {}, {}
    for m in methods:
        options = dict(o.split('=', 1) for o in m['options'].split() if '=' in o)
        for key, text in options.items():
            end = re.search(r'-?[0-9][0-9.eE+-]*$', text)
            try:
                keys.setdefault(key, {}).setdefault(m['method'], []).append((float(end[0]), m))
            except (TypeError, ValueError):
                continue
    for key, found in keys.items():
        groups = {method: sorted(rows, key=lambda r: r[0]) for method, rows in found.items()
                  if len({x for x, _ in rows}) >= 3}
        if groups:
            return key, groups
    return None, {}


def lines_panel(groups, x_name, y_name, log):
    """Groups of (name, colour, mark, [(x, y, half)])."""
    points = [p for *_, rows in groups for p in rows]
    svg = Svg(270, f'{y_name} by {x_name}')
    ends = [y + sign * (h if known(h) else 0) for _, y, h in points for sign in (-1, 1)]
    low, high = min(y for _, y, _ in points), max(y for _, y, _ in points)
    room = (high - low) or abs(high) or 1
    ends = [max(min(v, high + room), low - room) for v in ends]
    frame = Frame(svg, [x for x, _, _ in points], ends, log)
    frame.draw(x_name + (', log' if log else ''), y_name)
    for name, shade, mark, rows in groups:
        svg.path([(frame.x.at(x), frame.y.at(y)) for x, y, _ in rows], shade)
        for x, y, h in rows:
            px = frame.x.at(x)
            if known(h):
                a, b = frame.y.at(y - h), frame.y.at(y + h)
                svg.add(f'<line clip-path="url(#{svg.id})" x1="{px:.1f}" y1="{a:.1f}" '
                        f'x2="{px:.1f}" y2="{b:.1f}" '
                        f'style="stroke:{shade};stroke-width:1.2;opacity:.6"/>')
            svg.marker(px, frame.y.at(y), mark, shade, 4.2, f'{name}, {number(x)}: {number(y, 4)}')
    return svg.render()


def scaling(compare, series):
    """Of a comparison over an option: score and time by it. Of runs: a round by ranks."""
    rows, panels, name_of = [], [], lambda i: (colour(i), MARKERS[i % len(MARKERS)])
    if compare:
        key, found = swept(compare['methods'])
        what = ((compare['score'], lambda m: (m['final']['mean'], m['final']['ci95'])),
                ('modelled time of a run (s)',
                 lambda m: (m['time_modelled_total_ns']['mean'] * 1e-9, None)))
        found = {os.path.commonprefix([m['name'] for _, m in members]).rstrip('-_ ') or method:
                 members for method, members in found.items()}
    else:
        key, found = 'ranks', {}
        for s in traced(series):
            times = sorted(t for t in s.run['rounds']['time_measured_ns'][1:] if known(t) and t > 0)
            if times:
                found.setdefault(s.run['method'], []).append(
                    (len(s.run['memory']), times[len(times) // 2] * 1e-9))
        found = {k: sorted(v) for k, v in found.items() if len({x for x, _ in v}) >= 2}
        what = (('a round, measured (s)', lambda y: (y, None)),)
    rows.append(('series', key, 'figure', 'value', 'ci95_half'))
    for y_name, of in what:
        groups = []
        for i, (name, members) in enumerate(found.items()):
            points = [(x, *of(m)) for x, m in members]
            points = [p for p in points if known(p[1])]
            rows += [(name, x, y_name, y, '' if h is None else h) for x, y, h in points]
            if len(points) >= 2:
                groups.append((shorten(name, 40), *name_of(i), points))
        xs = [x for *_, points in groups for x, _, _ in points]
        if groups:
            panels.append(('', lines_panel(groups, key, y_name,
                                           min(xs) > 0 and max(xs) >= 10 * min(xs))))
    if not panels:
        return None
    return Figure('scaling', f'By {key}', f'What else is the same in each line; {key} differs.',
                  rows, panels, [Key(name, *name_of(i)) for i, name in enumerate(found)])


def visible(bars):
    """The parts that are wide enough in some bar to be seen: the key needs no others."""
    top = max(sum(v for _, v in parts) for _, parts, _ in bars)
    return {p for _, parts, _ in bars for p, v in parts if v > 0.003 * top}


def stages(series):
    """What the stages took in a round, by method and rank."""
    colours, rows, bars = palette(STAGES), [('series', 'rank', 'stage', 'count', 'time_ns')], []
    for s in traced(series):
        rounds = max(1, len([v for v in s.run['rounds']['version'] if v and v > 0]))
        ranks = sorted({e['rank'] for e in s.run['stages']})
        for rank in ranks[:16]:
            sums = {}
            for e in s.run['stages']:
                if e['rank'] != rank:
                    continue
                rows.append((s.name, rank, e['stage'], e['count'], e['time_ns']))
                if e['stage'] in ('wait', 'setup'):
                    continue
                part = 'transfer' if e['stage'] in MOVES else e['stage']
                part = part if part in STAGES else OTHERS
                sums[part] = sums.get(part, 0) + e['time_ns'] / rounds
            parts = [(p, sums[p]) for p in (*STAGES, OTHERS) if sums.get(p)]
            name = s.name if len(ranks) == 1 else f'{shorten(s.name, 9)} r{rank}'
            total = sum(v for _, v in parts)
            if total:
                bars.append((name, parts, with_unit(total, TIMES)))
    if not bars:
        return None
    used = visible(bars)
    any_rank = any(len({e['rank'] for e in s.run['stages']}) > 1 for s in traced(series))
    key = [Key(p, colours[p]) for p in (*STAGES, OTHERS) if p in used]
    return Figure('stages', 'Where the time of a round goes',
                  'Measured on this machine, summed over the spans of a round (mean of all '
                  'rounds), without waiting and set-up: processor work, not the modelled time of '
                  f'the devices.{" r: the rank." if any_rank else ""}', rows,
                  [('', stacked_bars(bars, colours, TIMES, 'Stages of a round', 'a round'))], key)


def parts(series):
    """Bytes of a message by part, as shares, for messages differ by powers of ten."""
    colours, rows, bars = palette(PARTS), [('series', 'frames', *PARTS)], []
    for s in traced(series):
        b = s.run['bytes']
        if not b['frames'] or not b['total']:
            continue
        rows.append((s.name, b['frames'], *(b['parts'][p] for p in PARTS)))
        shares = [(p, 100 * b['parts'][p] / b['total']) for p in PARTS if b['parts'][p]]
        bars.append((s.name, shares, with_unit(b['total'] / b['frames'], BYTES)))
    if not bars:
        return None
    used = visible(bars)
    return Figure('bytes', 'Bytes of a message by part',
                  'Shares of all update frames that reached the server, as serialised; on the '
                  'right a frame.', rows,
                  [('', stacked_bars(bars, colours, ((1, '%'),), 'Bytes by part', 'of a message'))],
                  [Key(p, colours[p]) for p in PARTS if p in used])


def gantt_panel(bars, colours, end):
    clients = {}
    for bar in bars:
        clients.setdefault(bar['client'], []).append(bar)
    busy = lambda c: max((b['end_ns'] for b in clients[c] if b['part'] != 'wait'), default=0)
    order = sorted(clients, key=lambda c: (busy(c), c))
    height, left = (13 if len(order) <= 24 else 8), 62
    svg = Svg(len(order) * height + 44, 'A round by client')
    axis = Axis([0, end], left, svg.width - 12, zero=True, room=0)
    divisor, unit = unit_of(end, TIMES)
    low = len(order) * height + 4
    for v in ticks(0, end / divisor):
        x = axis.at(v * divisor)
        svg.line(x, 2, x, low)
        svg.text(x, low + 15, f'{v:.4g}', 'middle', 'tick')
    svg.text((left + svg.width - 12) / 2, low + 32, f'since the round began ({unit})', 'middle',
             'name')
    for i, c in enumerate(order):
        y = 4 + i * height
        if height > 8 or i % 2 == 0:
            svg.text(left - 5, y + min(height, 11), f'client {c}', 'end', 'tick')
        for b in clients[c]:
            x = axis.at(b['start_ns'])
            took = with_unit(b['end_ns'] - b['start_ns'], TIMES)
            sent = f', {with_unit(b["bytes"], BYTES)}' if b['bytes'] >= 0 else ''
            svg.rect(x, y, axis.at(b['end_ns']) - x, height - 2.5, colours[b['part']],
                     f'client {c}, {b["part"]}: {took}{sent}')
    return svg.render()


def gantt(series):
    colours, rows = palette(GANTT), [('series', 'clock', 'round', 'client', 'rank', 'part',
                                      'start_ns', 'end_ns', 'bytes')]
    shown, used = [], set()
    for s in traced(series):
        g = s.run['gantt']
        for clock in ('modelled', 'measured'):
            bars = (g or {}).get(clock)
            # Under a model the spans say how this machine took turns, and nothing of the devices.
            if not bars or clock == 'measured' and g['modelled'] and s.run['pace'] == 'model':
                continue
            shown.append((s, clock, g['version'], bars))
            used |= {b['part'] for b in bars}
            rows += [(s.name, clock, g['version'], b['client'], b['rank'], b['part'],
                      b['start_ns'], b['end_ns'], b['bytes']) for b in bars]
    if not shown:
        return None
    end = {c: max((b['end_ns'] for _, k, _, bars in shown if k == c for b in bars), default=0)
           for c in ('modelled', 'measured')}
    panels = [(f'{s.name}, round {version} ({clock})', gantt_panel(bars, colours, end[clock]))
              for s, clock, version, bars in shown]
    return Figure('round', 'A round, client by client',
                  'The round of median length. Modelled: from the links as configured and '
                  'client.step_ns, encoding within compute; measured: spans on the clock of this '
                  'machine. All panels of a clock have one scale.', rows, panels,
                  [Key(p, colours[p]) for p in GANTT if p in used])


def few_digits(v):
    return '<.01' if 0 < v < 0.01 else f'{v:.2g}'


def widths_panel(tensors):
    grid, layers, matrices = {}, [], []
    for t in tensors:
        m = re.match(r'layers\.(\d+)\.(.+)$', t['tensor'])
        layer, matrix = (int(m[1]), m[2]) if m else (-1, t['tensor'])
        if layer not in layers:
            layers.append(layer)
        if matrix not in matrices:
            matrices.append(matrix)
        grid[layer, matrix] = t
    layers.sort()
    if len(matrices) > 24 or len(layers) > 64:
        return None
    top = max((t['mean_bits'] for t in tensors if known(t['mean_bits'])), default=1) or 1
    left, head = 46, 46
    cell = (WIDE - left - 26) / len(matrices)
    svg = Svg(head + 17 * len(layers) + 4, 'Bits by layer and matrix', WIDE)
    for k, matrix in enumerate(matrices):
        svg.add(f'<text class="tick" transform="translate({left + (k + .6) * cell:.1f},{head - 5}) '
                f'rotate(-40)">{esc(shorten(matrix, 9))}</text>')
    for i, layer in enumerate(layers):
        y = head + 17 * i
        svg.text(left - 5, y + 12, f'layer {layer}' if layer >= 0 else 'other', 'end', 'tick')
        for k, matrix in enumerate(matrices):
            t = grid.get((layer, matrix))
            if not t or not known(t['mean_bits']):
                continue
            part = t['mean_bits'] / top
            by = ', '.join(f'{n:,} at {w} bit' for w, n in t['values_by_width'].items())
            svg.rect(left + k * cell + .5, y, cell - 1, 16, 'var(--s0)',
                     f'{t["tensor"]}: {number(t["mean_bits"])} bit per value ({by})',
                     f' fill-opacity="{0.06 + 0.84 * part:.3f}"')
            svg.text(left + (k + .5) * cell, y + 11.5, few_digits(t['mean_bits']), 'middle',
                     'cell on' if part > 0.55 else 'cell')
    return svg.render()


def widths(series):
    rows, panels, same = [('series', 'tensor', 'mean_bits')], [], []
    for s in traced(series):
        tensors = s.run['widths']
        rows += [(s.name, t['tensor'], t['mean_bits']) for t in tensors]
        bits = {t['mean_bits'] for t in tensors if known(t['mean_bits'])}
        if len(bits) == 1:
            same.append(f'{s.name} {number(bits.pop())}')
        elif bits:
            svg = widths_panel(tensors)
            if svg:
                panels.append((s.name, svg))
    if not panels:
        return None
    note = f' One width for all: {", ".join(same)}.' if same else ''
    return Figure('widths', 'Bits a value, by layer and matrix',
                  'Means over all messages; what is not sent counts as 0 bits.' + note, rows,
                  panels)


def links(series):
    """The rates that transfers had, of the first series with any: the same for all of a seed."""
    limited = lambda s: [w for w in s.run['links']
                         if known(w['rate_max_bps']) and w['rate_max_bps'] < NO_LIMIT]
    s = next((s for s in traced(series) if limited(s)), None)
    if not s:
        return None # or links of no limit, which have no rate
    clients = {}
    for link in limited(s):
        clients.setdefault(link['client'], {})[link['way']] = link
    order = sorted(clients, key=lambda c: min(w['rate_mean_bps'] for w in clients[c].values()))
    height = 12 if len(order) <= 30 else max(3, 360 / len(order))
    svg = Svg(len(order) * height + 48, 'Rates of links')
    rates = [w[k] for c in clients.values() for w in c.values()
             for k in ('rate_min_bps', 'rate_max_bps')]
    axis = Axis(rates, 62, svg.width - 14, log=True)
    divisor, unit = unit_of(max(rates), RATES)
    low = len(order) * height + 6
    for v in axis.ticks():
        x = axis.at(v)
        svg.line(x, 2, x, low)
        svg.text(x, low + 15, number(v / divisor, 1), 'middle', 'tick')
    svg.text((62 + svg.width - 14) / 2, low + 34, f'rate ({unit}), log', 'middle', 'name')
    looks = {'up': ('circle', 'var(--s0)', False), 'down': ('square', 'var(--s1)', True)}
    for i, c in enumerate(order):
        y = 8 + i * height
        if height >= 10 or i % 10 == 0:
            svg.text(56, y + 4, f'client {c}', 'end', 'tick')
        for way, w in clients[c].items():
            kind, shade, hollow = looks[way]
            svg.line(axis.at(w['rate_min_bps']), y, axis.at(w['rate_max_bps']), y, 'range',
                     f' style="stroke:{shade}"')
            svg.marker(axis.at(w['rate_mean_bps']), y, kind, shade, min(3.6, height / 2.6),
                       f'client {c}, {way}: {with_unit(w["rate_mean_bps"], RATES)} in the mean of '
                       f'{w["transfers"]} transfer{"s" * (w["transfers"] != 1)}', hollow)
    free = [w for w in looks if not any(w in c for c in clients.values())]
    rows = [tuple(s.run['links'][0])] + [tuple(link.values()) for link in s.run['links']]
    return Figure('links', 'Links as they were applied',
                  f'{s.run["link"]}, as in {s.name}: the mean rate of each client\'s transfers, '
                  'the line from the slowest to the fastest.' +
                  (f' The way {" and ".join(free)} has no limit.' if free else ''), rows,
                  [('', svg.render())], [Key(way, shade, kind, hollow=hollow, line=False)
                                         for way, (kind, shade, hollow) in looks.items()
                                         if way not in free])


def energy(series):
    rows, modelled, measured = [('series', 'kind', 'part', 'joule')], [], []
    for s in traced(series):
        e = s.run['energy']
        if known(e['modelled_compute_j']):
            two = [('compute', e['modelled_compute_j']), ('transfer', e['modelled_send_j'])]
            rows += [(s.name, 'modelled', *p) for p in two]
            modelled.append((s.name, [p for p in two if p[1] > 0],
                             with_unit(two[0][1] + two[1][1], JOULES)))
        if known(e['measured_j']):
            sums = {}
            for stage, j in e['measured_by_stage_j'].items():
                rows.append((s.name, 'measured', stage, j))
                part = {'train': 'compute', 'encode': 'encode', 'decode': 'decode'}.get(stage,
                                                                                        OTHERS)
                sums[part] = sums.get(part, 0) + max(0, j)
            measured.append((s.name, list(sums.items()), with_unit(e['measured_j'], JOULES)))
    panels = [(title, stacked_bars(bars, palette(GANTT), JOULES, title, 'of the whole run'))
              for title, bars in (('Modelled, of the clients', modelled),
                                  ('Measured, of the boards', measured)) if bars]
    if not panels:
        return None
    return Figure('energy', 'Energy', 'Modelled: the powers of client.profile by modelled time. '
                  'Measured: the rails of the hosts, shared by spans.', rows, panels,
                  [Key(p, palette(GANTT)[p]) for p in ('compute', 'encode', 'transfer', 'decode')
                   if any(v > 0 for _, two, _ in modelled + measured for k, v in two if k == p)])


def memory(series):
    rows, bars, used = [('series', 'rank', 'purpose', 'bytes')], [], []
    for s in traced(series):
        for r in s.run['memory'][:16]:
            booked = r['booked_peak_bytes']
            name = s.name if len(s.run['memory']) == 1 else f'{shorten(s.name, 9)} r{r["rank"]}'
            rows += [(s.name, r['rank'], k, v) for k, v in booked.items()]
            rows.append((s.name, r['rank'], 'rss', r['rss_peak_bytes']))
            used += [k for k in booked if k not in used and k != OTHERS]
            if booked:
                bars.append((name, list(booked.items()), with_unit(r['rss_peak_bytes'], MEBI)
                             if r['rss_peak_bytes'] > 0 else ''))
    if not bars:
        return None
    used.sort(key=lambda k: -sum(dict(p).get(k, 0) for _, p, _ in bars))
    colours = palette(used[:N_COLOURS])
    few = [(name, [(k, dict(p)[k]) for k in used[:N_COLOURS] if dict(p).get(k)] +
            [(OTHERS, sum(v for k, v in p if k not in used[:N_COLOURS]))], rss)
           for name, p, rss in bars]
    return Figure('memory', 'Memory', 'The most that was booked at once, by purpose (the peaks '
                  'need not have met); on the right the peak of the whole process.', rows,
                  [('', stacked_bars(few, colours, MEBI, 'Memory', 'booked'))],
                  [Key(k, colours[k]) for k in [*used[:N_COLOURS], OTHERS]])
