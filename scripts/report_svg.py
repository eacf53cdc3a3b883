"""Drawing for fstq's report: SVG as text, by the standard library alone. Colours are the page's
(CSS variables), so that a figure is right in the dark, too."""
import html
import math
import re

WIDTH = 400  # of a panel: about what a phone shows, so that its letters stay letters
N_COLOURS = 7
MARKERS = ('circle', 'square', 'up', 'diamond', 'down')
DASHES = ('', '6 3', '2 2.5', '8 3 2 3')
BYTES = ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB'), (1, 'B'))
TIMES = ((1e9, 's'), (1e6, 'ms'), (1e3, 'µs'), (1, 'ns'))
RATES = ((1e9, 'Gbit/s'), (1e6, 'Mbit/s'), (1e3, 'kbit/s'), (1, 'bit/s'))
JOULES = ((1e3, 'kJ'), (1, 'J'), (1e-3, 'mJ'), (1e-6, 'µJ'))
MEBI = ((2 ** 30, 'GiB'), (2 ** 20, 'MiB'), (2 ** 10, 'KiB'), (1, 'B'))


def esc(text):
    """Any text as text of HTML or of an attribute; what HTML does not know is left out."""
    return html.escape(re.sub(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]', '', str(text)),
                       quote=True)


def known(v):
    return isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)


def number(v, digits=3):
    """Three digits, no exponent where it can be helped."""
    if not known(v):
        return '–'
    if v == 0:
        return '0'
    if abs(v) >= 1e6 or abs(v) < 1e-4:
        return f'{v:.{digits - 1}e}'
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(v)) + 1e-12))
    return f'{v:,.{decimals}f}'


def unit_of(top, units):
    """(divisor, name): the largest unit that is not above top."""
    for divisor, name in units:
        if top >= divisor:
            return divisor, name
    return units[-1]


def with_unit(v, units):
    if not known(v):
        return '–'
    divisor, name = unit_of(abs(v), units)
    return f'{number(v / divisor)} {name}'


def ticks(low, high, most=6):
    """Round numbers from low to high."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10, 20) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    """Powers of ten, with 2 and 5 where there are few of them, or round numbers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0 ** d for d in decades for m in steps
                 if low * 0.999 <= m * 10.0 ** d <= high * 1.001]
        if len(found) >= 3:
            return found
    return found if len(found) >= 2 else ticks(low, high, 4)


class Axis:
    """Numbers to places; log where asked for and possible."""

    def __init__(self, values, a, b, log=False, zero=False, room=0.04):
        values = [v for v in values if known(v) and (not log or v > 0)]
        low, high = (min(values), max(values)) if values else (1 if log else 0, 1)
        if zero:
            low = min(0, low)
        self.log = log
        if log:
            low, high = low / (high / low) ** room, high * (high / low) ** room
            if high / low < 1.01:
                low, high = low / 2, high * 2
        else:
            gap = (high - low) or abs(high) or 1
            low, high = low - (0 if zero and low == 0 else room * gap), high + room * gap
        self.low, self.high, self.a, self.b = low, high, a, b

    def at(self, v):
        if self.log:
            part = (math.log(max(v, 1e-300)) - math.log(self.low)) / math.log(self.high / self.low)
        else:
            part = (v - self.low) / (self.high - self.low)
        return self.a + max(-9.0, min(9.0, part)) * (self.b - self.a)

    def ticks(self, most=6):
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, most)


class Svg:
    """One figure. Elements go out in the order in which they come."""

    count = 0

    def __init__(self, height, label, width=WIDTH):
        self.width, self.height, self.label = width, height, label
        self.parts = []
        Svg.count += 1
        self.id = f'f{Svg.count}'

    def add(self, element):
        self.parts.append(element)

    def line(self, x1, y1, x2, y2, kind='grid', extra=''):
        self.add(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" '
                 f'y2="{y2:.1f}"{extra}/>')

    def text(self, x, y, text, anchor='start', kind='', title=''):
        tip = f'<title>{esc(title)}</title>' if title else ''
        self.add(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
                 f'{esc(text)}{tip}</text>')

    def rect(self, x, y, w, h, fill, title='', extra=''):
        tip = f'<title>{esc(title)}</title>' if title else ''
        self.add(f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(w, 0):.2f}" height="{h:.2f}" '
                 f'style="fill:{fill}"{extra}>{tip}</rect>')

    def path(self, points, colour, dash='', width=1.8, opacity=1.0):
        points = [f'{x:.1f},{y:.1f}' for x, y in points]
        dash = f' stroke-dasharray="{dash}"' if dash else ''
        if points:
            self.add(f'<polyline points="{" ".join(points)}" clip-path="url(#{self.id})" '
                     f'style="fill:none;stroke:{colour};stroke-width:{width};'
                     f'opacity:{opacity}"{dash}/>')

    def area(self, upper, lower, colour):
        points = [f'{x:.1f},{y:.1f}' for x, y in upper + lower[::-1]]
        self.add(f'<polygon points="{" ".join(points)}" clip-path="url(#{self.id})" '
                 f'style="fill:{colour};fill-opacity:.13;stroke:none"/>')

    def clip(self, x, y, w, h):
        self.add(f'<clipPath id="{self.id}"><rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" '
                 f'height="{h:.1f}"/></clipPath>')

    def marker(self, x, y, kind, colour, size=3.4, title='', hollow=False):
        self.add(marker(x, y, kind, colour, size, title, hollow))

    def render(self):
        return (f'<svg viewBox="0 0 {self.width} {self.height:.0f}" role="img" '
                f'aria-label="{esc(self.label)}">{"".join(self.parts)}</svg>')


def marker(x, y, kind, colour, size=3.4, title='', hollow=False):
    tip = f'<title>{esc(title)}</title>' if title else ''
    style = (f'fill:var(--paper);stroke:{colour};stroke-width:1.5' if hollow else
             f'fill:{colour};stroke:var(--paper);stroke-width:.7')
    if kind == 'circle':
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" style="{style}">{tip}</circle>'
    s = size * 1.15
    corners = {'square': ((-.9, -.9), (.9, -.9), (.9, .9), (-.9, .9)),
               'up': ((0, -1.15), (1.05, .85), (-1.05, .85)),
               'down': ((0, 1.15), (1.05, -.85), (-1.05, -.85)),
               'diamond': ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0))}[kind]
    points = ' '.join(f'{x + s * dx:.1f},{y + s * dy:.1f}' for dx, dy in corners)
    return f'<polygon points="{points}" style="{style}">{tip}</polygon>'


class Key:
    """What a colour stands for: a line with its marker, or without one a part of a bar."""

    def __init__(self, name, colour, mark=None, dash='', hollow=False, line=True):
        self.name, self.colour, self.mark, self.dash = name, colour, mark, dash
        self.hollow, self.line = hollow, line

    def sample(self, x, y):
        """As wide as 20, its middle at y."""
        if not self.mark:
            return (f'<rect x="{x + 4:.1f}" y="{y - 5:.1f}" width="11" height="11" '
                    f'style="fill:{self.colour}"/>')
        dash = f' stroke-dasharray="{self.dash}"' if self.dash else ''
        line = (f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + 20:.1f}" y2="{y:.1f}" '
                f'style="stroke:{self.colour};stroke-width:1.8"{dash}/>') if self.line else ''
        return line + marker(x + 10, y, self.mark, self.colour, hollow=self.hollow)


class Frame:
    """The axes of a panel: a grid, ticks with their unit, names."""

    def __init__(self, svg, x_values, y_values, x_log=False, x_units=None, left=48, bottom=40,
                 y_range=None, y_log=False):
        self.top, self.right, self.low = 8, svg.width - 12, svg.height - bottom
        self.y = Axis(y_range or y_values, self.low, self.top, log=y_log)
        # Room for the longest number beside the name that stands upright.
        longest = max(len(f'{v:.4g}') for v in self.y.ticks())
        self.svg, self.left = svg, max(left, 24 + 6.4 * longest)
        self.x = Axis(x_values, self.left, self.right, log=x_log)
        top = max((v for v in x_values if known(v)), default=1)
        self.divisor, self.unit = unit_of(top, x_units) if x_units else (1, '')
        svg.clip(self.left, self.top, self.right - self.left, self.low - self.top)

    def draw(self, x_name, y_name, whole=False):
        svg = self.svg
        for v in self.y.ticks():
            y = self.y.at(v)
            svg.line(self.left, y, self.right, y)
            svg.text(self.left - 5, y + 4, f'{v:.4g}', 'end', 'tick')
        for v in self.x.ticks():
            if whole and v != int(v):
                continue
            x = self.x.at(v)
            svg.line(x, self.low, x, self.low + 4, 'axis')
            svg.text(x, self.low + 16, f'{v / self.divisor:.4g}', 'middle', 'tick')
        svg.line(self.left, self.low, self.right, self.low, 'axis')
        unit = f' ({self.unit})' if self.unit else ''
        svg.text((self.left + self.right) / 2, self.low + 33, x_name + unit, 'middle', 'name')
        svg.add(f'<text class="name" transform="translate(10,{(self.low + self.top) / 2:.0f}) '
                f'rotate(-90)" text-anchor="middle">{esc(y_name)}</text>')


def shorten(text, most):
    text = str(text)
    return text if len(text) <= most else text[:most - 1] + '…'


def stacked_bars(rows, colours, units, label, x_name):
    """Bars of parts, one over the other: rows of (name, [(part, value)], remark)."""
    left, bar, right = 96, 15, 66
    svg = Svg(len(rows) * (bar + 7) + 46, label)
    top = max((sum(v for _, v in parts) for _, parts, _ in rows), default=0) or 1
    axis = Axis([0, top], left, svg.width - right, zero=True, room=0)
    divisor, unit = unit_of(top, units)
    low = len(rows) * (bar + 7) + 4
    for v in ticks(0, top / divisor, 4):
        x = axis.at(v * divisor)
        svg.line(x, 2, x, low)
        svg.text(x, low + 15, f'{v:.4g}', 'middle', 'tick')
    svg.text((left + svg.width - right) / 2, low + 33, f'{x_name} ({unit})', 'middle', 'name')
    for i, (name, parts, remark) in enumerate(rows):
        y, x = i * (bar + 7) + 4, left
        svg.text(left - 6, y + bar - 3, shorten(name, 14), 'end', 'tick', title=name)
        for part, v in parts:
            end = x + axis.at(v) - left
            svg.rect(x, y, end - x, bar, colours[part],
                     f'{name}, {part}: {with_unit(v, units)}')
            x = end
        svg.text(x + 4, y + bar - 3, remark, 'start', 'tick')
    return svg.render()
