#!/usr/bin/env python3
"""Writes src/task/nfc_tables.h, what composing text (NFC, Unicode Standard Annex 15) takes, and
tests/golden/nfc.txt, texts before and after; both from Python's unicodedata."""
import os
import random
import unicodedata

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
POINTS = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
HANGUL = range(0xac00, 0xd7a4)


def nfc(text):
    return unicodedata.normalize('NFC', text)


def splits():
    """(code point, first, second or 0, whether it is composed again) of canonical mappings."""
    rows = []
    for c in POINTS:
        way = unicodedata.decomposition(chr(c))
        if way and not way.startswith('<'):
            parts = [int(p, 16) for p in way.split()] + [0]
            again = parts[1] and nfc(chr(parts[0]) + chr(parts[1])) == chr(c)
            rows.append((c, parts[0], parts[1], bool(again)))
    return rows


def classes():
    """(first, last, combining class) of runs."""
    rows = []
    for c in POINTS:
        k = unicodedata.combining(chr(c))
        if k and rows and rows[-1][1] == c - 1 and rows[-1][2] == k:
            rows[-1][1] = c
        elif k:
            rows.append([c, c, k])
    return rows


def suspects(rows):
    """Ranges of what may not stay as it is: it changes, combines, or may join what is before it."""
    second = {b for _, _, b, again in rows if again}
    second |= set(range(0x1161, 0x1176)) | set(range(0x11a8, 0x11c3))
    out = []
    for c in POINTS:
        if c in second or unicodedata.combining(chr(c)) or nfc(chr(c)) != chr(c):
            if out and out[-1][1] == c - 1:
                out[-1][1] = c
            else:
                out.append([c, c])
    return out


def table(out, head, rows):
    out.write(f'static const {head} = {{\n')
    line = '   '
    for row in rows:
        cell = ' {' + ', '.join(f'0x{v:x}' for v in row) + '},'
        if len(line) + len(cell) > 100:
            out.write(line + '\n')
            line = '   '
        line += cell
    out.write(line + '\n};\n')


def texts():
    """Letters with marks in any order, jamo, what never composes, and plain text between."""
    rng = random.Random(1)
    rows = splits()
    marks = [c for a, b, _ in classes() for c in range(a, b + 1)]
    pools = [[c for c, *_ in rows], [a for _, a, *_ in rows], [b for _, _, b, _ in rows if b],
             marks, list(range(0x1100, 0x1113)), list(range(0x1161, 0x1176)),
             list(range(0x11a7, 0x11c3)),
             list(HANGUL), list(range(0x41, 0x7b)), [0x3b1, 0x430, 0x4e2d, 0x1f600]]
    return [''.join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 12)))
            for _ in range(400)]


def main():
    rows = splits()
    pairs = sorted((a, b, c) for c, a, b, again in rows if again)
    with open(os.path.join(ROOT, 'src/task/nfc_tables.h'), 'w', encoding='ascii') as out:
        out.write('// Written by scripts/make_nfc.py from Unicode '
                  f'{unicodedata.unidata_version}; Hangul is computed.\n'
                  '#ifndef FSTQ_TASK_NFC_TABLES_H\n#define FSTQ_TASK_NFC_TABLES_H\n\n'
                  '#include <stdint.h>\n\n// clang-format off\n// first, last\n')
        table(out, 'uint32_t suspect_ranges[][2]', suspects(rows))
        out.write('// first, last, combining class\n')
        table(out, 'uint32_t class_ranges[][3]', classes())
        out.write('// code point, what it is made of: one or two, by code point\n')
        table(out, 'uint32_t split_rows[][3]', [r[:3] for r in rows])
        out.write('// first, second, what they make, by the two\n')
        table(out, 'uint32_t join_rows[][3]', pairs)
        out.write('// clang-format on\n\n#endif\n')
    with open(os.path.join(ROOT, 'tests/golden/nfc.txt'), 'w', encoding='ascii') as out:
        for t in texts():
            print(t.encode().hex(), nfc(t).encode().hex(), file=out)


if __name__ == '__main__':
    main()
