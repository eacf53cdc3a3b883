#!/usr/bin/env python3
"""The house rules that a compiler does not check: who includes whom, and tidiness.

One TAP line a rule. Each rule is first tried on a planted violation, so that none passes for
being blind.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = ('base', 'dev', 'model', 'task', 'codec', 'net', 'fed', 'trace', 'report', 'compare')
MAY_INCLUDE = {
    'base': set(),
    'codec': {'base', 'dev', 'kernels'},
    'fed': {'base', 'dev', 'model', 'task', 'codec', 'net'},
    'dev': {'base', 'kernels'},
    'net': {'base'},
    'model': {'base', 'dev'},
    'task': {'base'},
    'trace': {'base'},
    'report': {'base', 'trace'},
    'compare': {'base', 'trace', 'report'},
    'kernels': set(),
}
# Single headers of other modules, beside the whole modules above.
ALSO = {
    'kernels': {'base/rng.h', 'base/half.h'},
    'compare': {'config.h', 'fed/fed.h', 'fed/method.h'},  # the parameters; fed's public face
}
# Libraries that one file knows about: header pattern, the file, and what else may.
ONE_PLACE = (
    (r'mpi\.h', 'src/net/comm_mpi.c'),
    (r'hdf5(_hl)?\.h', 'src/trace/trace_h5.c'),
    (r'hwloc(/.*)?\.h', 'src/base/topo.c'),
)
# Headers that say inside a module what another of its headers leaves open.
PRIVATE_HALF = {'src/model/inner.h': 'src/model/model.h',
                'src/codec/factors_own.h': 'src/codec/factors.h'}
CUDA = re.compile(r'(cuda\w*|cublas\w*|nvml|curand\w*|cooperative_groups|cub/.*)(\.h|\.cuh)?$')
C_LIKE = ('.c', '.h', '.cu', '.cuh')
SCRIPT = ('.sh', '.bash', '.py')
TEXT = C_LIKE + SCRIPT + ('.ini', '.md', '.yml', '.txt')
COLUMNS, FUNCTION_LINES = 100, 70
SKIP_DIRS = {'.git', 'build', 'runs', '__pycache__', 'corpus', 'data', 'golden'}


class Tree:
    """The files of a checkout, by path from its root."""

    def __init__(self, root):
        self.root = root
        self.files = []
        for base, dirs, names in os.walk(root):
            dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS)
            for name in sorted(names):
                self.files.append(os.path.relpath(os.path.join(base, name), root))
        self.text = {}

    def read(self, path):
        if path not in self.text:
            full = os.path.join(self.root, path)
            with open(full, encoding='utf-8', errors='replace', newline='') as f:
                self.text[path] = f.read()
        return self.text[path]

    def lines(self, path):
        return enumerate(self.read(path).split('\n'), 1)

    def scripts(self):
        """Also those without an ending, which say in their first line what they are."""
        return [f for f in self.files
                if f.endswith(SCRIPT) or '.' not in f.split('/')[-1] and self.read(f)[:2] == '#!']

    def ending(self, *ends, under=('',)):
        return [f for f in self.files if f.endswith(ends) and f.startswith(tuple(under))]


def module_of(path):
    """'base' for src/base/x.c, 'root' for src/x.c, else the first folder."""
    part = path.split('/')
    if part[0] == 'src':
        return part[1] if len(part) > 2 else 'root'
    return part[0]


def includes(tree, path):
    for n, line in tree.lines(path):
        m = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if m:
            yield n, m[1], m[2]


def target_of(tree, path, name):
    """The file that a quoted include means, found as the -I options do; None if there is none."""
    for folder in (os.path.dirname(path), 'src', '', 'kernels'):
        candidate = os.path.normpath(os.path.join(folder, name))
        if candidate in tree.text or os.path.isfile(os.path.join(tree.root, candidate)):
            return candidate
    return None


def unit_of(path):
    """A file and the header of its name are one, and so is a header's private half with it."""
    return os.path.splitext(PRIVATE_HALF.get(path, path))[0]


def rule_include_law(tree):
    """modules include only what the design allows"""
    for path in tree.ending(*C_LIKE, under=('src/', 'kernels/', 'bench/', 'tests/')):
        me = module_of(path)
        for n, kind, name in includes(tree, path):
            if kind == '<' or name == 'facts.h':
                continue
            target = target_of(tree, path, name)
            if target is None:
                yield path, n, f'"{name}" is not in this tree (system headers go in <>)'
                continue
            it = module_of(target)
            if me in MAY_INCLUDE and it != me:
                if it not in MAY_INCLUDE[me] and name not in ALSO.get(me, ()):
                    yield path, n, f'{me} may not include "{name}"'
            outer = {'tests': {'tests'}, 'bench': {'root', 'bench', 'tests'}}
            if it in outer and me not in outer[it]:
                yield path, n, f'{it} is included by nothing outside: "{name}"'
            if it in MODULES and name != target[len('src/'):]:
                yield path, n, f'"{name}" is written "{target[4:]}"'


def rule_circles(tree):
    """no header includes itself, and no file and its header need what needs them"""
    asks = {}  # unit, a file and the header of its name -> {unit it includes: (file, line)}
    for path in tree.ending(*C_LIKE, under=('src/', 'kernels/', 'bench/', 'tests/')):
        unit = asks.setdefault(unit_of(path), {})
        for n, kind, name in includes(tree, path):
            target = target_of(tree, path, name) if kind == '"' else None
            if target == path:
                yield path, n, 'includes itself'
            elif target and unit_of(target) != unit_of(path):
                unit.setdefault(unit_of(target), (path, n))
    done = set()
    for first in sorted(asks):
        way = {first: None}  # unit -> the one that asked for it, breadth first
        todo = [first]
        for unit in todo:
            for it in asks.get(unit, ()):
                if it == first and first not in done:
                    circle = [first]
                    while unit:
                        circle.append(unit)
                        unit = way[unit]
                    done.update(circle)
                    yield *asks[circle[1]][first], 'a circle: ' + ' <- '.join(circle)
                    break
                if it not in way:
                    way[it] = unit
                    todo.append(it)


def rule_one_place(tree):
    """mpi.h, hdf5.h and hwloc.h each appear in one file"""
    for path in tree.ending(*C_LIKE):
        for n, _, name in includes(tree, path):
            for pattern, home in ONE_PLACE:
                if re.fullmatch(pattern, name) and path != home:
                    yield path, n, f'{name} belongs to {home} alone'


def rule_cuda_place(tree):
    """CUDA headers appear in kernels/gpu.h and in one file of src/dev"""
    homes = set()
    for path in tree.ending(*C_LIKE):
        for n, kind, name in includes(tree, path):
            if kind == '<' and CUDA.fullmatch(name) and path != 'kernels/gpu.h':
                homes.add(path)
                if module_of(path) != 'dev' or path.endswith('.h') or len(homes) > 1:
                    yield path, n, f'{name} outside the one CUDA file of src/dev'


def rule_have_cuda(tree):
    """HAVE_CUDA is asked in at most two files"""
    users = [f for f in tree.ending(*C_LIKE)
             if re.search(r'^\s*#\s*(el)?if.*\bHAVE_CUDA\b', tree.read(f), re.M)]
    if len(users) > 2:
        yield users[2], 0, 'HAVE_CUDA in more than two files: ' + ' '.join(users)


def columns(line):
    """Cells the line takes on a screen: marks stand over letters, and ideographs take two."""
    if line.isascii():
        return len(line)
    wide = sum(unicodedata.east_asian_width(c) in 'WF' for c in line)
    return len(line) + wide - sum(unicodedata.category(c) in ('Mn', 'Me', 'Cf') for c in line)


def rule_columns(tree):
    """no line is longer than 100 columns"""
    for path in tree.ending(*C_LIKE) + tree.scripts():
        for n, line in tree.lines(path):
            n_columns = columns(line)
            if n_columns > COLUMNS and not re.search(r'https?://\S{60}', line):
                yield path, n, f'{n_columns} columns'


def rule_blanks(tree):
    """no tabs, no blanks at line ends, no CR, one newline at the end"""
    for path in tree.files:
        makefile = os.path.basename(path) == 'Makefile'
        if not (path.endswith(TEXT) or makefile or path in tree.scripts()):
            continue
        for n, line in tree.lines(path):
            if '\t' in line and not (makefile and line.startswith('\t') and '\t' not in line[1:]):
                yield path, n, 'tab'
            if line != line.rstrip():
                yield path, n, 'blank at the end of the line'
        text = tree.read(path)
        if text and (not text.endswith('\n') or text.endswith('\n\n')):
            yield path, 0, 'ends without exactly one newline'


def rule_functions(tree):
    """no function is longer than 70 lines"""
    for path in tree.ending(*C_LIKE):
        start = 0
        for n, line in tree.lines(path):
            if line == '{':
                start = n
            elif line == '}' and start:
                if n - start - 1 > FUNCTION_LINES:
                    yield path, start, f'a function of {n - start - 1} lines'
                start = 0


def rule_banners(tree):
    """no comment is a banner"""
    for path in tree.ending(*C_LIKE):
        for n, line in tree.lines(path):
            if re.match(r'\s*(//|/\*) ?([-=*#~])\2\2', line):
                yield path, n, 'a banner; a short sentence says as much'


def rule_unique_names(tree):
    """file names are unique across src, kernels and bench"""
    seen = {}
    for path in tree.ending(*C_LIKE, under=('src/', 'kernels/', 'bench/')):
        name = os.path.basename(path)
        if name in seen:
            yield path, 0, f'the same name as {seen[name]}'
        seen.setdefault(name, path)


def rule_guards(tree):
    """every header has a guard of its own, FSTQ_, folders, its name and _H"""
    seen = {}
    for path in tree.ending('.h', '.cuh'):
        name = re.sub(r'[^A-Za-z0-9]', '_', os.path.basename(path)).upper()
        m = re.search(r'^#ifndef (\w+)\n#define (\w+)$', tree.read(path), re.M)
        if not m or m[1] != m[2] or not re.fullmatch(rf'FSTQ_(\w+_)?{name}', m[1]):
            yield path, 0, f'no guard FSTQ_..._{name}'
        elif m[1] in seen:
            yield path, 0, f'the same guard as {seen[m[1]]}'
        else:
            seen[m[1]] = path


def rule_leftovers(tree):
    """nothing is left to do, and nothing names somebody's home directory"""
    words = re.compile(r'\b(TO' 'DO|FIX' r'ME|XX' r'X)\b|/(home|root|Users)/\w')
    for path in tree.files:
        if path.endswith(TEXT) or os.path.basename(path) == 'Makefile':
            for n, line in tree.lines(path):
                m = words.search(line)
                if m:
                    yield path, n, m[0]


def rule_fuzz_seeds(tree):
    """every fuzz target has seeds, and every corpus a target"""
    folder = os.path.join(tree.root, 'tests/fuzz/corpus')
    have = {d for d in os.listdir(folder)} if os.path.isdir(folder) else set()
    want = {os.path.basename(f)[5:-2] for f in tree.ending('.c', under=('tests/fuzz/fuzz_',))}
    for name in sorted(want):
        if name not in have or not os.listdir(os.path.join(folder, name)):
            yield f'tests/fuzz/fuzz_{name}.c', 0, f'no seeds in tests/fuzz/corpus/{name}'
    for name in sorted(have - want):
        yield f'tests/fuzz/corpus/{name}', 0, 'no such target'


def rule_scripts(tree):
    """scripts can be executed and their syntax is right"""
    for path in tree.scripts():
        full = os.path.join(tree.root, path)
        first = tree.read(path).split('\n', 1)[0]
        if not first.startswith('#!'):
            if os.access(full, os.X_OK):
                yield path, 1, 'executable, but the first line does not say by what'
            continue
        if not os.access(full, os.X_OK):
            yield path, 0, 'not executable'
        if 'python' in first:
            try:
                compile(tree.read(path), path, 'exec')
            except SyntaxError as e:
                yield path, e.lineno or 0, str(e)
        else:
            shell = 'bash' if 'bash' in first else 'sh'
            r = subprocess.run([shell, '-n', full], capture_output=True, text=True)
            if r.returncode:
                yield path, 0, r.stderr.strip()


def clang_format():
    """The formatter of the version that the configuration is for: others differ."""
    for name in ('clang-format-14', 'clang-format'):
        exe = shutil.which(name)
        if exe:
            said = subprocess.run([exe, '--version'], capture_output=True, text=True).stdout
            if re.search(r'version 14\.', said):
                return exe
    return None


def rule_format(tree):
    """clang-format has nothing to change"""
    exe = clang_format()
    files = tree.ending('.c', '.h')
    if exe is None or not files:
        return
    r = subprocess.run([exe, '--style=file', '--dry-run', *files], cwd=tree.root,
                       capture_output=True, text=True)
    seen = set()
    for m in re.finditer(r'^(\S+?):(\d+):\d+: (?:warning|error): (.*)$', r.stderr, re.M):
        if m[1] not in seen:
            seen.add(m[1])
            yield m[1], int(m[2]), m[3] + ' (make format)'
    if r.returncode and not seen:
        yield '.clang-format', 0, r.stderr.strip()[:200]


LONG_FUNCTION = 'void f(void)\n{\n' + '    g();\n' * 71 + '}\n'
# Rule -> files with one violation each. An empty list: as the tree stands it must be clean.
PLANTED = {
    rule_include_law: [
        {'src/codec/a.c': '#include "net/b.h"\n', 'src/net/b.h': ''},
        {'src/base/a.c': '#include "codec/b.h"\n', 'src/codec/b.h': ''},
        {'src/task/a.c': '#include "cmd.h"\n', 'src/cmd.h': ''},
        {'kernels/a.c': '#include "base/mem.h"\n', 'src/base/mem.h': ''},
        {'src/net/a.c': '#include "bench/b.h"\n', 'bench/b.h': ''},
        {'src/a.c': '#include "tests/b.h"\n', 'tests/b.h': ''},
        {'src/net/a.c': '#include "wire.h"\n', 'src/net/wire.h': ''},
        {'src/net/a.c': '#include "net/gone.h"\n'},
        {'src/fed/a.c': '#include "../net/b.h"\n', 'src/net/b.h': ''},
        {'src/trace/a.c': '#include "model/b.h"\n', 'src/model/b.h': ''},
        {'src/trace/a.c': '#include "report/b.h"\n', 'src/report/b.h': ''},
        {'src/report/a.c': '#include "config.h"\n', 'src/config.h': ''},
        {'src/report/a.c': '#include "compare/b.h"\n', 'src/compare/b.h': ''},
        {'src/compare/a.c': '#include "fed/server.h"\n', 'src/fed/server.h': ''},
        {'src/compare/a.c': '#include "cmd.h"\n', 'src/cmd.h': ''},
        {'src/fed/a.c': '#include "trace/b.h"\n', 'src/trace/b.h': ''},
    ],
    rule_circles: [
        {'src/base/a.h': '#include "base/a.h"\n'},
        {'src/base/a.h': '#include "base/b.h"\n', 'src/base/b.h': '#include "base/c.h"\n',
         'src/base/c.h': '\n#include "base/a.h"\n'},
        {'src/net/a.c': '#include "net/a.h"\n#include "net/b.h"\n', 'src/net/a.h': '',
         'src/net/b.h': '#include "net/a.h"\n'},
        {'src/net/a.h': '', 'src/net/b.h': '', 'src/net/a.c': '#include "net/b.h"\n',
         'src/net/b.c': '#include "net/a.h"\n'},
        {'kernels/a.cu': '#include "b.h"\n', 'kernels/b.h': '#include "c.h"\n',
         'kernels/c.c': '#include "a.h"\n', 'kernels/a.h': '', 'kernels/c.h': ''},
    ],
    rule_one_place: [
        {'src/fed/a.c': '#include <mpi.h>\n'},
        {'src/main.c': '#  include <hdf5.h>\n'},
        {'tests/unit/a.c': '#include "hwloc.h"\n'},
        {'src/base/a.c': '#include <hwloc/bitmap.h>\n'},
    ],
    rule_cuda_place: [
        {'src/model/a.c': '#include <cuda_runtime.h>\n'},
        {'src/dev/a.h': '#include <cublas_v2.h>\n'},
        {'kernels/a.cu': '#include <cuda_fp16.h>\n'},
        {'src/dev/a.c': '#include <cuda.h>\n', 'src/dev/b.c': '#include <cuda.h>\n'},
    ],
    rule_have_cuda: [
        {f'src/{x}.c': '#ifdef HAVE_CUDA\n#endif\n' for x in 'abc'},
        {f'src/{x}.c': '#if defined(HAVE_CUDA)\n#endif\n' for x in 'abc'},
    ],
    rule_columns: [
        {'src/a.c': '// ' + 'x' * 98 + '\n'},
        {'scripts/a': '#!/bin/sh\n' + 'x' * 101 + '\n'},
    ],
    rule_blanks: [
        {'src/a.c': '\tint x;\n'},
        {'src/a.c': 'int x; \n'},
        {'src/a.c': 'int x;\r\n'},
        {'src/a.c': 'int x;'},
        {'README.md': 'x\n\n'},
    ],
    rule_functions: [{'src/a.c': LONG_FUNCTION}],
    rule_banners: [
        {'src/a.c': '// --- Part two ------\n'},
        {'src/a.c': '/******\n'},
    ],
    rule_unique_names: [{'src/net/a.c': '', 'bench/a.c': ''}],
    rule_guards: [
        {'src/base/a.h': 'int x;\n'},
        {'src/base/a.h': '#ifndef FSTQ_BASE_B_H\n#define FSTQ_BASE_B_H\n#endif\n'},
        {f: '#ifndef FSTQ_A_H\n#define FSTQ_A_H\n#endif\n' for f in ('src/a.h', 'src/net/a.h')},
    ],
    rule_leftovers: [
        {'src/a.c': '// TO' 'DO: all\n'},
        {'README.md': 'see /ho' 'me/me/x\n'},
    ],
    rule_fuzz_seeds: [
        {'tests/fuzz/fuzz_a.c': ''},
        {'tests/fuzz/corpus/a/seed': 'x'},
    ],
    rule_scripts: [
        {'scripts/a.sh': '#!/bin/sh\n'},
        {'scripts/a.sh!': '#!/bin/sh\nif\n'},
        {'scripts/a.py!': '#!/usr/bin/env python3\nif\n'},
    ],
    rule_format: [{'src/a.c': 'int  main( void ){return 0;}\n'}],
}
CLEAN = {
    'src/codec/a.c': '#include "base/a.h"\n#include "codec/b.h"\n\n#include <stdio.h>\n',
    'src/codec/b.h': '#ifndef FSTQ_CODEC_B_H\n#define FSTQ_CODEC_B_H\n#endif\n',
    'src/base/a.h': '#ifndef FSTQ_BASE_A_H\n#define FSTQ_BASE_A_H\n#endif\n',
    'src/codec/b.c': '#include "codec/b.h"\n',
    'src/net/comm_mpi.c': '#include <mpi.h>\n',
    'src/main.c': '#include "bench/c.h"\n#include "codec/b.h"\n',
    'src/compare/d.c': '#include "config.h"\n#include "fed/fed.h"\n',
    'src/config.h': '#ifndef FSTQ_CONFIG_H\n#define FSTQ_CONFIG_H\n#endif\n',
    'src/fed/fed.h': '#ifndef FSTQ_FED_FED_H\n#define FSTQ_FED_FED_H\n#endif\n',
    'bench/c.h': '#ifndef FSTQ_BENCH_C_H\n#define FSTQ_BENCH_C_H\n#endif\n',
    'scripts/a.sh!': '#!/bin/sh\necho\n',
    'Makefile': 'all:\n\ttrue\n',
}


def plant(root, files):
    """Writes files under root; a name that ends in ! is executable."""
    shutil.copy(os.path.join(ROOT, '.clang-format'), root)
    for name, text in files.items():
        path = os.path.join(root, name.rstrip('!'))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8', newline='') as f:
            f.write(text)
        os.chmod(path, 0o755 if name.endswith('!') else 0o644)


def self_test(rule):
    """What is wrong with the rule itself, or ''."""
    for files in PLANTED[rule]:
        with tempfile.TemporaryDirectory() as root:
            plant(root, files)
            if not list(rule(Tree(root))):
                return 'does not see ' + ', '.join(files)
    with tempfile.TemporaryDirectory() as root:
        plant(root, CLEAN)
        found = list(rule(Tree(root)))
        return f'finds {found[0]} in a clean tree' if found else ''


def main():
    tree = Tree(ROOT)
    bad = 0
    print(f'1..{len(PLANTED)}')
    for n, rule in enumerate(PLANTED, 1):
        if rule is rule_format and clang_format() is None:
            print(f'ok {n} - {rule.__doc__} # SKIP no clang-format 14')
            continue
        blind = self_test(rule)
        found = list(rule(tree))
        ok = not blind and not found
        bad += not ok
        print(f'{"ok" if ok else "not ok"} {n} - {rule.__doc__}')
        if blind:
            print(f'# self-test: {rule.__name__} {blind}')
        for path, line, what in found[:20]:
            print(f'# {path}:{line}: {what}' if line else f'# {path}: {what}')
        if len(found) > 20:
            print(f'# and {len(found) - 20} more')
    return bad != 0


if __name__ == '__main__':
    sys.exit(main())
