#!/usr/bin/env python3
"""Writes src/task/unicode_ranges.h: which code points are letters, numbers and white space.

Taken from the regex engine of the Python package tokenizers (pip install tokenizers), so that texts
are cut where its pre-tokenizers cut them.
"""
import os
import sys

from tokenizers import Regex, pre_tokenizers

CLASSES = (('letter', r'\p{L}'), ('number', r'\p{N}'), ('space', r'\s'))


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), 'removed')
    points = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    return [c for c in points if not split.pre_tokenize_str(chr(c))]


def ranges(points):
    out = []
    for c in points:
        if out and c == out[-1][1] + 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(root, 'src/task/unicode_ranges.h')
    with open(path, 'w', encoding='ascii', newline='\n') as out:
        out.write('// Written by scripts/make_unicode.py: ranges of code points, first and last.\n'
                  '#ifndef FSTQ_TASK_UNICODE_RANGES_H\n#define FSTQ_TASK_UNICODE_RANGES_H\n\n'
                  '#include <stdint.h>\n\n// clang-format off\n')
        for name, pattern in CLASSES:
            rows = [f'{{0x{a:x}, 0x{b:x}}},' for a, b in ranges(members(pattern))]
            out.write(f'static const uint32_t {name}_ranges[][2] = {{\n')
            line = '   '
            for r in rows:
                if len(line) + 1 + len(r) > 100:
                    out.write(line + '\n')
                    line = '   '
                line += ' ' + r
            out.write(line + '\n};\n')
        out.write('// clang-format on\n\n#endif\n')


if __name__ == '__main__':
    main()
