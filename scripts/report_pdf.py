"""Figures of fstq's report as files for a paper: SVG that stands by itself, and PDF, as wide as a
column. By the standard library alone: the PDF has what report_svg.py draws, and Helvetica, which
every reader of PDF has."""
import math
import os
import re
import xml.etree.ElementTree as ElementTree

from report_svg import esc

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMN_MM = 84.6  # 3.33 inches
TEXT_SIZE = {'tick': 11.0, 'name': 11.5, 'cell': 9.0, 'cell on': 9.0}
# Advance widths of Helvetica, in thousandths, of the characters from blank to tilde (Adobe's AFM).
HELVETICA = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667,
    611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667,
    667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500,
    222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584)


def light():
    """The page's colours by day: name to #rrggbb."""
    with open(os.path.join(HERE, 'report.css'), encoding='utf-8') as f:
        day = f.read().split('@media')[0]
    return dict(re.findall(r'--([a-z0-9]+):\s*(#[0-9a-f]{6})', day))


def headed(svg, title, key):
    """A panel with its title and what its colours mean above it, as the page has them around it."""
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    lines, line, x = [], [], 0.0
    for item in key:
        wide = 26 + 1.1 * width_of(item.name, TEXT_SIZE['tick'])
        if line and x + wide > width - 8:
            lines.append(line)
            line, x = [], 0.0
        line.append((x, item))
        x += wide + 10
    lines += [line] if line else []
    top, out = 14 * len(lines) + (16 if title else 0), []
    if title:
        out.append(f'<text x="4" y="{12 - top}">{esc(title)}</text>')
    for i, entries in enumerate(lines):
        y = -14 * (len(lines) - i) + 7
        for x, item in entries:
            out += [item.sample(4 + x, y), f'<text class="tick" x="{26 + x:.1f}" y="{y + 4}">'
                    f'{esc(item.name)}</text>']
    svg = re.sub(r'viewBox="[^"]*"', f'viewBox="0 {-top} {width:g} {height + top:g}"', svg, count=1)
    return svg.replace('</svg>', ''.join(out) + '</svg>')


def standing(svg, colours):
    """A panel as a file of its own: no page around it that says what its colours are."""
    style = (f'text{{font-family:Helvetica,Arial,sans-serif;font-size:12px;fill:{colours["ink"]}}}'
             f'.tick{{font-size:11px;fill:{colours["soft"]}}}'
             f'.name{{font-size:11.5px;fill:{colours["soft"]}}}'
             f'.cell{{font-size:9px}}.cell.on{{fill:{colours["paper"]}}}'
             f'.grid{{stroke:{colours["rule"]};stroke-width:.8}}'
             f'.axis{{stroke:{colours["faint"]};stroke-width:1}}'
             '.range{stroke-width:1.6;opacity:.55}')
    svg = re.sub(r'var\(--([a-z0-9]+)\)', lambda m: colours[m[1]], svg)
    width, height = map(float, re.search(r'viewBox="0 [-\d.]+ ([\d.]+) ([\d.]+)"', svg).groups())
    size = f'width="{COLUMN_MM}mm" height="{COLUMN_MM * height / width:.1f}mm"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
    return svg.replace('<svg ', head, 1).replace('>', f'><style>{style}</style>', 1)


def rgb(colour):
    return ' '.join(f'{int(colour[i:i + 2], 16) / 255:.3f}' for i in (1, 3, 5))


def width_of(text, size):
    codes = (ord(c) - 32 for c in text)
    return size / 1000 * sum(HELVETICA[c] if 0 <= c < len(HELVETICA) else 556 for c in codes)


class Canvas:
    """A page's operators; y grows downwards as in SVG, so that text is turned over again."""

    def __init__(self, colours):
        self.colours, self.out, self.alphas, self.clips = colours, [], {}, {}

    def style(self, e):
        """What an element looks like: its class, then its style, then its attributes."""
        kind = e.get('class', '')
        look = {'grid': {'stroke': self.colours['rule'], 'stroke-width': '.8'},
                'axis': {'stroke': self.colours['faint'], 'stroke-width': '1'},
                'range': {'stroke-width': '1.6', 'opacity': '.55'}}.get(kind, {})
        own = (item.split(':', 1) for item in e.get('style', '').split(';') if item)
        look = {**look, **dict(own)}
        for name in ('fill-opacity', 'stroke-dasharray'):
            if e.get(name):
                look[name] = e.get(name)
        return look

    def alpha(self, fill, stroke):
        return self.alphas.setdefault((round(fill, 3), round(stroke, 3)), f'G{len(self.alphas)}')

    def paint(self, look, path):
        fill, stroke = look.get('fill', 'none'), look.get('stroke', 'none')
        whole = float(look.get('opacity', 1))
        self.out.append(f'/{self.alpha(whole * float(look.get("fill-opacity", 1)), whole)} gs')
        if fill != 'none':
            self.out.append(f'{rgb(fill)} rg')
        if stroke != 'none':
            dash = look.get('stroke-dasharray', '').replace(',', ' ')
            self.out.append(f'{rgb(stroke)} RG {look.get("stroke-width", "1")} w [{dash}] 0 d')
        ends = {(True, True): 'B', (True, False): 'f', (False, True): 'S'}
        self.out += [path, ends.get((fill != 'none', stroke != 'none'), 'n')]

    def shape(self, e, tag):
        look = self.style(e)
        v = lambda name: float(e.get(name, 0))
        if tag == 'line':
            look.pop('fill', None)
            self.paint(look, f'{v("x1")} {v("y1")} m {v("x2")} {v("y2")} l')
        elif tag == 'rect':
            self.paint(look, f'{v("x")} {v("y")} {v("width")} {v("height")} re')
        elif tag == 'circle':
            self.paint(look, circle(v('cx'), v('cy'), v('r')))
        else:
            points = [p.replace(',', ' ') for p in e.get('points', '').split()]
            if points:
                path = ' '.join([f'{points[0]} m', *(f'{p} l' for p in points[1:])])
                self.paint(look, path + (' h' if tag == 'polygon' else ''))

    def text(self, e):
        kind, text = e.get('class', ''), e.text or ''
        size = TEXT_SIZE.get(kind, 12.0)
        colour = {'': 'ink', 'cell': 'ink', 'cell on': 'paper'}.get(kind, 'soft')
        x, y, angle = float(e.get('x', 0)), float(e.get('y', 0)), 0.0
        move = e.get('transform', '')
        if move:
            x, y = map(float, re.search(r'translate\(([-\d.]+),([-\d.]+)\)', move).groups())
            angle = math.radians(float(re.search(r'rotate\(([-\d.]+)\)', move)[1]))
        back = {'middle': 0.5, 'end': 1.0}.get(e.get('text-anchor'), 0.0) * width_of(text, size)
        c, s = math.cos(angle), math.sin(angle)
        place = f'{c:.4f} {s:.4f} {s:.4f} {-c:.4f} {x - back * c:.2f} {y - back * s:.2f} Tm'
        letters = re.sub(rb'([\\()])', rb'\\\1', text.encode('cp1252', 'replace'))
        self.out.append(f'/{self.alpha(1, 1)} gs BT {rgb(self.colours[colour])} rg /F1 {size} Tf '
                        f'{place} ({letters.decode("latin-1")}) Tj ET')

    def element(self, e):
        tag = e.tag.split('}')[-1]
        if tag == 'clipPath':
            r = e[0]
            self.clips[e.get('id')] = ' '.join(r.get(k) for k in ('x', 'y', 'width', 'height'))
        elif tag == 'text':
            self.text(e)
        elif tag in ('line', 'rect', 'circle', 'polyline', 'polygon'):
            clip = self.clips.get(e.get('clip-path', '')[5:-1])
            self.out += [f'q {clip} re W n'] if clip else []
            self.shape(e, tag)
            self.out += ['Q'] if clip else []


def circle(x, y, r):
    """Four of Bezier's arcs."""
    k = 0.5523 * r
    return (f'{x + r:.2f} {y:.2f} m '
            f'{x + r:.2f} {y + k:.2f} {x + k:.2f} {y + r:.2f} {x:.2f} {y + r:.2f} c '
            f'{x - k:.2f} {y + r:.2f} {x - r:.2f} {y + k:.2f} {x - r:.2f} {y:.2f} c '
            f'{x - r:.2f} {y - k:.2f} {x - k:.2f} {y - r:.2f} {x:.2f} {y - r:.2f} c '
            f'{x + k:.2f} {y - r:.2f} {x + r:.2f} {y - k:.2f} {x + r:.2f} {y:.2f} c h')


def pdf(svg, colours):
    """A standing SVG as a PDF of one page."""
    root = ElementTree.fromstring(svg)
    top, width, height = (float(v) for v in root.get('viewBox').split()[1:])
    points = COLUMN_MM / 25.4 * 72
    scale = points / width
    canvas = Canvas(colours)
    for e in root:
        canvas.element(e)
    drawing = (f'{scale:.5f} 0 0 {-scale:.5f} 0 {(height + top) * scale:.2f} cm\n' +
               '\n'.join(canvas.out)).encode('latin-1')
    states = ' '.join(f'/{name} <</ca {fill} /CA {stroke}>>'
                      for (fill, stroke), name in canvas.alphas.items())
    objects = [
        b'<</Type/Catalog/Pages 2 0 R>>', b'<</Type/Pages/Kids[3 0 R]/Count 1>>',
        f'<</Type/Page/Parent 2 0 R/MediaBox[0 0 {points:.2f} {height * scale:.2f}]/Contents 4 0 R'
        f'/Resources<</Font<</F1 5 0 R>>/ExtGState<<{states}>>>>>>'.encode(),
        b'<</Length %d>>stream\n%s\nendstream' % (len(drawing), drawing),
        b'<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>']
    out, places = bytearray(b'%PDF-1.4\n'), []
    for i, body in enumerate(objects, 1):
        places.append(len(out))
        out += b'%d 0 obj\n%s\nendobj\n' % (i, body)
    table = len(out)
    out += b'xref\n0 %d\n0000000000 65535 f \n' % (len(objects) + 1)
    out += b''.join(b'%010d 00000 n \n' % p for p in places)
    out += b'trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n' % (len(objects) + 1, table)
    return bytes(out)


def write_figures(figures, folder):
    """A file a panel as SVG and as PDF, and the numbers of each figure as CSV."""
    os.makedirs(folder, exist_ok=True)
    colours = light()
    for figure in figures:
        with open(os.path.join(folder, f'{figure.name}.csv'), 'w', encoding='utf-8',
                  newline='') as f:
            f.write(figure.csv())
        for i, (title, panel) in enumerate(figure.panels):
            many = f'-{i + 1}' if len(figure.panels) > 1 else ''
            path = os.path.join(folder, figure.name + many)
            svg = standing(headed(panel, title, figure.key), colours)
            with open(path + '.svg', 'w', encoding='utf-8') as f:
                f.write(svg + '\n')
            with open(path + '.pdf', 'wb') as f:
                f.write(pdf(svg, colours))
