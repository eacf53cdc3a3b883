#!/usr/bin/env python3
"""Whether the page of a report stands by itself: check_page.py report.html report.json [TEXT ...]

Tags match, nothing is loaded from elsewhere, no number is drawn that is none, and the data that can
be downloaded are those of report.json. Each TEXT has to be on the page, as text. Says what is wrong
and ends with status 1.
"""
import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

VOID = {'meta', 'link', 'br', 'img'}
LOADS = {'src', 'srcset', 'data', 'poster', 'action', 'xlink:href', 'background', 'ping'}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.wrong, self.text, self.files = [], set(), [], [], {}
        self.count = {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        if tag in ('link', 'iframe', 'object', 'embed', 'base'):
            self.wrong.append(f'<{tag}>')
        attrs = [(k, v or '') for k, v in attrs]
        names = [k for k, _ in attrs]
        if len(set(names)) != len(names):
            self.wrong.append(f'<{tag}> names an attribute twice: {names}')
        for name, value in attrs:
            self.attribute(tag, name, value, dict(attrs))

    def attribute(self, tag, name, value, all_of_them):
        if name in LOADS or name.startswith('on'):
            self.wrong.append(f'<{tag} {name}={value[:40]}>')
        if name == 'id':
            if value in self.ids:
                self.wrong.append(f'two elements are called {value}')
            self.ids.add(value)
        if name == 'href':
            if not value.startswith(('data:', '#')):
                self.wrong.append(f'a link to {value[:60]}')
            elif 'download' in all_of_them:
                self.files[all_of_them['download']] = unquote(value.split(',', 1)[1])
        if name in ('style', 'clip-path') and re.search(r'url\((?!#)', value):
            self.wrong.append(f'{name}={value[:40]} loads')
        drawn = name in ('x', 'y', 'x1', 'y1', 'x2', 'y2', 'cx', 'cy', 'r', 'width', 'height',
                         'points', 'viewbox', 'transform')
        if drawn and re.search(r'nan|inf|None', value):
            self.wrong.append(f'<{tag} {name}={value[:60]}>')

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f'</{tag}> closes nothing')

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == 'style' and re.search(r'@import|url\(', data):
            self.wrong.append('a style that loads')
        self.text.append(data)


def check_data(page, data):
    if json.loads(page.files['report.json']) != data:
        yield 'report.json of the page differs from the file'
    rows = list(csv.reader(io.StringIO(page.files.get('fstq-score.csv', 'none'))))
    drawn = {(r[0], float(r[1])): float(r[2]) if r[2] else None for r in rows[1:]}
    expected = {}
    if data['compare']:
        for m in data['compare']['methods']:
            for r, v in zip(m['curve']['round'], m['curve']['score_mean']):
                expected[m['name'], r] = v
    else:
        for run in data['runs']:
            for r, v in zip(run['rounds']['version'], run['rounds']['score']):
                expected[run['label'], r] = v
    if drawn != expected:
        yield 'the scores of fstq-score.csv are not those of report.json'


def main():
    with open(sys.argv[1], encoding='utf-8') as f:
        text = f.read()
    with open(sys.argv[2], encoding='utf-8') as f:
        data = json.load(f)
    page = Page()
    page.feed(text)
    page.close()
    wrong = page.wrong + [f'<{tag}> stays open' for tag in page.open]
    if page.count.get('script', 0) > 1:
        wrong.append(f'{page.count["script"]} scripts')
    if 'report.json' in page.files:
        wrong += list(check_data(page, data))
    words = ''.join(page.text)
    wrong += [f'no "{t}" on the page' for t in sys.argv[3:] if t not in words]
    for w in wrong:
        print('#', w)
    print(f'# {page.count.get("svg", 0)} pictures, {len(page.files)} files to download')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
