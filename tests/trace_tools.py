#!/usr/bin/env python3
"""show, export and the plot on real traces: whole, resumed, incomplete, empty, damaged, foreign.

Prints TAP. What needs h5py or matplotlib is skipped with a word where they are missing.
"""
import contextlib
import csv
import glob
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get('FSTQ_BUILD', os.path.join(ROOT, 'build', 'release'))
FSTQ = os.environ.get('FSTQ', os.path.join(BUILD, 'fstq'))
PYTHON = '/usr/bin/python3'
RUN = [os.path.join(ROOT, 'configs', 'quadratic.ini'), 'fed.method=fedavg/fp32',
       'fed.clients=12', 'fed.clients_per_round=4', 'fed.rounds=6', 'fed.local_steps=2']

count = 0
failed = 0


def ok(good, name, why=''):
    global count, failed
    count += 1
    failed += not good
    print(f'{"" if good else "not "}ok {count} - {name}')
    if not good and why:
        for line in str(why).splitlines()[:20]:
            print(f'# {line}')
    return good


def skip(name, why):
    global count
    count += 1
    print(f'ok {count} - {name} # SKIP {why}')


def call(*args, **more):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=120,
                          **more)


def have(module):
    return call(PYTHON, '-c', f'import {module}').returncode == 0


def make_run(where, *options):
    os.makedirs(where)
    path = os.path.join(where, 'trace.h5')
    r = call(FSTQ, 'run', *RUN, f'trace.file={path}', *options, cwd=where)
    return path, r


@contextlib.contextmanager
def killed_at(k):
    """Programs started inside die at their k-th call that changes a file."""
    more = {'LD_PRELOAD': os.path.join(BUILD, 'tests', 'preload', 'killwrite.so'),
            'FSTQ_KILL_MODE': 'kill', 'FSTQ_KILL_AT': str(k),
            'ASAN_OPTIONS': 'verify_asan_link_order=0'}
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def writer(where, rounds, *options):
    """A file of nothing but test rows, every field of every table filled with something."""
    os.makedirs(where, exist_ok=True)
    path, progress = os.path.join(where, 'rows.h5'), os.path.join(where, 'progress')
    with open(progress, 'wb') as f:
        f.write(struct.pack('i', 0))
    call(os.path.join(BUILD, 'tests', 'mpi', 'trace_writer'), path, rounds, progress, *options)
    return path


# --- show ---

def check_show(path, run):
    r = call(FSTQ, 'show', path)
    ok(r.returncode == 0, 'show: status 0', r.stderr)
    heads = [line for line in r.stdout.splitlines() if line.startswith('# stage ')]
    ok(len(heads) == 1 and 'train' in r.stdout and 'upload' not in r.stderr, 'show: stage table')
    tail = [line for line in run.stdout.splitlines() if line.startswith('# adapter')]
    shown = r.stdout.splitlines()
    ok(len(tail) == 1 and tail[0] in shown, 'show: the adapter hash that the run printed')
    ok(shown[-2:] == run.stdout.splitlines()[-2:], "show: the run's verdict comes last", shown[-1])
    bad = [line for line in shown if line and line[0] not in '# ' and not line[0].isalpha()]
    ok(not bad, "show: '#' on every line that is not data", '\n'.join(bad))
    rounds = call(FSTQ, 'show', path, '--rounds').stdout
    ok(sum(line.split()[0].isdigit() for line in rounds.splitlines() if line.strip()) == 7,
       'show --rounds: a row per round', rounds)
    everything = call(FSTQ, 'show', path, '--all').stdout
    ok('fed.clients = 12' in everything and 'compiler=' in everything, 'show --all: config, build')


def check_show_json(path):
    r = call(FSTQ, 'show', path, '--json')
    try:
        d = json.loads(r.stdout)
    except ValueError as e:
        ok(False, 'show --json: JSON', e)
        return
    ok(d['complete'] is True and len(d['results']) == 1, 'show --json: one complete run')
    res = d['results'][0]
    ok([row['version'] for row in res['rounds']] == list(range(7)), 'show --json: rounds')
    total = sum(row['uplink_bytes'] for row in res['rounds'])
    ok(total == res['bytes']['total'] == sum(c['uplink_bytes'] for c in res['clients']) > 0,
       'show --json: uplink by round, by part and by client is one number',
       (total, res['bytes'], sum(c['uplink_bytes'] for c in res['clients'])))
    parts = ('header', 'directory', 'scales', 'indices', 'tags', 'values')
    ok(sum(res['bytes'][p] for p in parts) == total, 'show --json: the parts add up')
    ok(sum(c['asked'] for c in res['clients']) == 6 * 4, 'show --json: clients asked')


def check_errors(where, path):
    missing = call(FSTQ, 'show', os.path.join(where, 'missing.h5'))
    ok(missing.returncode == 4 and 'missing.h5' in missing.stderr and
       len(missing.stderr.splitlines()) == 1, 'show: a missing file is one line', missing.stderr)
    other = os.path.join(where, 'other.h5')
    with open(other, 'w', encoding='ascii') as f:
        f.write('hello')
    r = call(FSTQ, 'show', other)
    ok(r.returncode == 4 and 'other.h5' in r.stderr, 'show: a file that is not HDF5', r.stderr)
    with open(path, 'rb') as f:
        data = f.read()
    with open(other, 'wb') as f:
        f.write(data[:len(data) // 2])
    r = call(FSTQ, 'show', other)
    ok(r.returncode == 4 and 'other.h5' in r.stderr and 'HDF5-DIAG' not in r.stderr,
       'show: half a file', r.stderr)
    r = call(FSTQ, 'show', other, '--recover')
    ok(r.returncode == 4 and 'other.h5.journal' in r.stderr, 'show --recover: no journal',
       r.stderr)
    ok(call(FSTQ, 'show').returncode == 2 and call(FSTQ, 'show', '--bogus', path).returncode == 2,
       'show: bad usage is status 2')
    r = call(FSTQ, 'show', path, '--run', '7')
    ok(r.returncode == 2 and 'no run 7' in r.stderr, 'show --run: no such run', r.stderr)
    ok(call(FSTQ, 'export', path).returncode == 2, 'export: bad usage is status 2')
    r = call(FSTQ, 'export', path, '--chrome', os.path.join(where, 'no', 'such', 'x.json'))
    ok(r.returncode == 4 and 'x.json' in r.stderr, 'export: a place that cannot be written',
       r.stderr)
    r = call(FSTQ, 'export', path, '--csv', path)
    ok(r.returncode == 4 and r.stderr, 'export: a directory that is a file', r.stderr)


def check_recover(where):
    path = writer(where, 3)
    ok(not os.path.exists(path + '.journal'), 'journal: gone after a complete run')
    os.remove(path)
    with killed_at(75):
        path = writer(where, 30)
    ok(os.path.exists(path + '.journal'), 'journal: there after a kill')
    r = call(FSTQ, 'show', path, '--runs')
    ok('INCOMPLETE' in r.stdout and r.returncode == 0, 'show: a killed run is INCOMPLETE', r.stderr)
    os.truncate(path, 1000)
    ok(call(FSTQ, 'show', path).returncode == 4, 'show: cut short, it does not open')
    r = call(FSTQ, 'show', path, '--recover', '--json')
    d = json.loads(r.stdout) if r.returncode == 0 else {}
    ok(d.get('rounds_committed', 0) >= 1, 'show --recover: rebuilt from the journal', r.stderr)
    ok(os.path.getsize(os.path.join(where, 'rows.1.h5')) == 1000,
       'show --recover: keeps the damaged')


def check_full(where):
    """The disk is full in the middle: the run ends, says so, and what came before is there."""
    os.makedirs(where)
    path = os.path.join(where, 'trace.h5')
    command = [FSTQ, 'run', *RUN, 'fed.rounds=1500', 'run.dir=', f'trace.file={path}',
               'trace.journal=off']

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500 << 10, 500 << 10))
    r = call(*command, cwd=where, preexec_fn=limit)
    ok(r.returncode == 3 and r.stdout.splitlines()[-1].startswith('# DEGRADED'),
       'full: the run ends with status 3', (r.returncode, r.stdout[-300:], r.stderr))
    ok(r.stderr.count('degraded') == 1 and 'HDF5-DIAG' not in r.stderr, 'full: said once', r.stderr)
    r = call(FSTQ, 'show', path, '--json')
    d = json.loads(r.stdout) if r.returncode == 0 else {}
    ok(10 < d.get('rounds_committed', 0) < 1500 and not d['complete'] and not d['damaged'],
       'full: the rounds before are whole', r.stderr)


# --- export --chrome ---

def nests(slices):
    """No two slices of a thread may overlap but for one inside the other."""
    open_ends = []
    for ts, dur in sorted(slices, key=lambda s: (s[0], -s[1])):
        while open_ends and open_ends[-1] <= ts:
            open_ends.pop()
        if open_ends and open_ends[-1] < ts + dur:
            return False
        open_ends.append(ts + dur)
    return True


def load_chrome(path, where):
    out = os.path.join(where, 'chrome.json')
    r = call(FSTQ, 'export', path, '--chrome', out)
    if r.returncode:
        print(f'# {r.stderr}')
        return []
    with open(out, encoding='utf-8') as f:
        return json.load(f)


def check_chrome(path, where, what):
    """Holds of any trace."""
    events = load_chrome(path, where)
    slices = defaultdict(list)
    for e in events:
        if e['ph'] == 'X':
            slices[e['pid'], e['tid']].append((round(e['ts'] * 1000), round(e['dur'] * 1000)))
    ok(events and all({'ph', 'name', 'pid'} <= set(e) for e in events), f'chrome, {what}: events')
    ok(slices and all(map(nests, slices.values())), f'chrome, {what}: slices of a thread nest')
    ok(all(ts >= 0 and dur >= 0 for v in slices.values() for ts, dur in v),
       f'chrome, {what}: no time before the start')
    named = {(e['pid'], e['tid']) for e in events if e['name'] == 'thread_name'}
    ok(set(slices) <= named, f'chrome, {what}: every thread has a name', set(slices) - named)
    processes = {e['pid'] for e in events if e['name'] == 'process_name'}
    ok({pid for pid, _ in slices} <= processes, f'chrome, {what}: every process has a name')
    return events, slices


def check_chrome_run(path, where):
    events, slices = check_chrome(path, where, 'run')
    starts = {e['id']: e for e in events if e['ph'] == 's'}
    ends = {e['id']: e for e in events if e['ph'] == 'f'}
    ok(len(starts) == len(ends) == 6 * 4 and set(starts) == set(ends), 'chrome: an arrow an update',
       (len(starts), len(ends)))
    ok(all(starts[k]['ts'] <= ends[k]['ts'] for k in starts), 'chrome: no arrow points back')

    def bound(e):
        ts = round(e['ts'] * 1000)
        return any(a <= ts <= a + d for a, d in slices[e['pid'], e['tid']])
    ok(all(map(bound, list(starts.values()) + list(ends.values()))),
       'chrome: arrows begin and end in slices')
    lanes = {e['args']['name'] for e in events if e['name'] == 'thread_name'}
    # Clients of a rank share its lanes unless they overlap, as simulated ones may.
    ok({'server compute', 'server io', 'rounds'} <= lanes and
       any(n in lanes for n in ('compute', 'client 3 compute')), 'chrome: lanes', lanes)
    totals = [e['args']['bytes'] for e in events if e['ph'] == 'C' and e['name'] == 'uplink total']
    ok(len(totals) == 6 and totals == sorted(totals) and totals[0] > 0, 'chrome: uplink counter',
       totals)
    modelled = Counter(e['name'] for e in events if e['ph'] == 'X' and e.get('cat') == 'modelled')
    ok(modelled['upload'] == modelled['download'] == modelled['compute'] == 6 * 4,
       'chrome: modelled transfers on their own time', modelled)
    # The array form: also without its end it can be read line by line.
    with open(os.path.join(where, 'chrome.json'), encoding='utf-8') as f:
        lines = f.read().splitlines()
    whole = [line for line in lines[1:-1] if line.strip()]
    ok(all(line.strip().startswith('{') and line.rstrip(',').endswith('}') for line in whole) and
       len(whole) == len(events), 'chrome: an event per line')


# --- export --csv ---

def check_csv(path, where):
    try:
        import h5py
    except ImportError as e:
        skip('csv: the same as in the file', e)
        return
    out = os.path.join(where, 'csv')
    r = call(FSTQ, 'export', path, '--csv', out)
    ok(r.returncode == 0, 'csv: status 0', r.stderr)
    with open(os.path.join(out, 'messages.csv'), encoding='utf-8') as f:
        ok(',kept_0bit,kept_1bit,' in f.readline(), 'csv: an array is a column an element')
    units = {(u['table'], u['column']): u for u in read_csv(os.path.join(out, 'units.csv'))}
    with h5py.File(path) as f:
        for name, rows in zip(f['tables'][:], f['rows_committed'][:]):
            name = name.decode()
            base = name.rsplit('/', 1)[1]
            data = f[name][:rows]
            mark = 'stage' if base == 'events' else 'rank' if base == 'ranks' else 'run'
            data = data[data[mark] != (0 if mark == 'stage' else -1)]
            got = read_csv(os.path.join(out, base + '.csv'))
            wrong = compare_table(f, name, data, got, units) if got else ['no rows']
            ok(not wrong and len(got) == len(data) > 0,
               f'csv: {base} is as in the file, {len(data)} rows', '\n'.join(wrong[:5]))


# --- export --tensorboard, --mlflow ---

def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    crc ^= 0xffffffff
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def fields(data):
    """A message of protocol buffers as {field: [value]}; what is fixed stays bytes."""
    found, at = {}, 0

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            byte = data[at]
            at += 1
            v |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return v
    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            value = varint()
        else:
            n = {1: 8, 5: 4}.get(tag & 7) or varint()
            value, at = data[at:at + n], at + n
        found.setdefault(tag >> 3, []).append(value)
    return found


def read_events(path):
    """{(tag, step): (value, wall time)} of an event file; raises where a checksum is another."""
    with open(path, 'rb') as f:
        data = f.read()
    at, out, first = 0, {}, None
    while at < len(data):
        n, check = struct.unpack_from('<QI', data, at)
        event, at = data[at + 12:at + 12 + n], at + 16 + n
        if at <= 400: # a few stand for all: this is slow
            assert check == crc32c(struct.pack('<Q', n))
            assert struct.unpack_from('<I', data, at - 4)[0] == crc32c(event)
        e = fields(event)
        first = first or e
        for value in (fields(v) for s in e.get(5, []) for v in fields(s)[1]):
            out[value[1][0].decode(), e[2][0]] = (struct.unpack('<f', value[2][0])[0],
                                                  struct.unpack('<d', e[1][0])[0])
    assert at == len(data) and first[3] == [b'brain.Event:2']
    return out


def check_series(path, where):
    out, flow = os.path.join(where, 'tb'), os.path.join(where, 'flow')
    r = call(FSTQ, 'export', path, '--tensorboard', out, '--mlflow', flow)
    ok(r.returncode == 0, 'tensorboard, mlflow: status 0', r.stderr)
    shown = json.loads(call(FSTQ, 'show', path, '--json').stdout)['results'][0]['rounds']
    files = glob.glob(os.path.join(out, 'run', 'events.out.tfevents.*'))
    ok(len(files) == 1, 'tensorboard: a file of the run')
    events = read_events(files[0])
    total, wrong = 0, []
    for row in shown:
        total += max(0, row['time_modelled_ns']) * 1e-9
        want = {'score': row['score'], 'bytes/uplink_total': row['uplink_total_bytes'],
                'time/modelled_total_s': total, 'loss/train': row['train_loss']}
        for tag, v in want.items():
            got = events.get((tag, row['version']), (None,))[0]
            if (got is None) != (v is None) or v and abs(got / v - 1) > 1e-6:
                wrong.append(f'{tag} {row["version"]}: {got}, not {v}')
    ok(not wrong and len(shown) > 1, 'tensorboard: the rounds of fstq show', '\n'.join(wrong[:5]))
    times = [events['score', row['version']][1] for row in shown]
    ok(times == sorted(times) and times[0] > 1.6e9, 'tensorboard: time goes on')
    rows = read_csv(os.path.join(flow, 'metrics.csv'))
    lines = {(r['key'], int(r['step'])): float(r['value']) for r in rows}
    ok(set(lines) == set(events) and len(rows) == len(events) and
       all(abs(v - events[k][0]) <= 1e-6 * abs(v) for k, v in lines.items()),
       'mlflow: the same numbers')
    marks = os.path.join(where, 'mllog.txt')
    r = call(FSTQ, 'export', path, '--mllog', marks)
    with open(marks, encoding='utf-8') as f:
        said = [json.loads(line.removeprefix(':::MLLOG ')) for line in f]
    ok(r.returncode == 0 and len(said) == len(events) + 2 and
       [said[0]['key'], said[-1]['key']] == ['run_start', 'run_stop'] and
       all(m['value'] == lines[m['key'].replace('eval_accuracy', 'score'),
                               m['metadata']['epoch_num']] for m in said[1:-1]),
       'mllog: the same numbers', r.stderr)
    params = {r['key']: r['value'] for r in read_csv(os.path.join(flow, 'params.csv'))}
    ok(params.get('run.seed') == '1' and 'method' in params, 'mlflow: parameters')


def read_csv(path):
    with open(path, newline='', encoding='utf-8', errors='replace') as f:
        return list(csv.DictReader(f))


def compare_table(f, name, data, got, units):
    base = name.rsplit('/', 1)[1]
    wrong = [] if list(got[0]) == list(data.dtype.names) else ['other columns than in the file']
    for field in data.dtype.names:
        enum = h5_enum(f[name], field)
        if (base, field) not in units:
            wrong.append(f'{field} is not in units.csv')
        for value, cell in zip(data[field], (g.get(field) for g in got)):
            if not same_value(value, cell, enum, units.get((base, field), {}).get('type')):
                wrong.append(f'{field}: {value!r} in the file, {cell!r} in the CSV')
    return wrong


def h5_enum(dataset, field):
    import h5py
    names = h5py.check_enum_dtype(dataset.dtype[field])
    return {v: k for k, v in names.items()} if names else None


def same_value(value, cell, enum, kind):
    if cell is None:
        return False
    if enum:
        return enum.get(int(value)) == cell
    if kind == 'text':
        return bytes(value).rstrip(b'\0').decode('utf-8', 'replace') == cell.replace('\r\n', '\n')
    if kind == 'hex64':
        return int(cell, 16) == int(value)
    if kind == 'float':
        return cell == '' if not math.isfinite(value) else float(cell) == float(value)
    return int(cell) == int(value)


# --- The file for others ---

def check_readers(path):
    if shutil.which('h5dump'):
        r = call('h5dump', '-H', path)
        ok(r.returncode == 0 and '"events"' in r.stdout, 'h5dump opens it', r.stderr)
        r = call('h5dump', '-d', '/stages', path)
        ok('training' in r.stdout or 'local steps' in r.stdout, 'h5dump prints the stages')
    else:
        skip('h5dump opens it', 'no h5dump')
    try:
        import h5py
    except ImportError as e:
        skip('h5py opens it', e)
        return
    with h5py.File(path) as f:
        ok(f.attrs['format'] == b'fstq-trace' and f.attrs['complete'] == 1, 'h5py: attributes')
        missing = []
        f.visititems(lambda n, o: missing.append(n) if isinstance(o, h5py.Dataset) and
                     'units' not in o.attrs else None)
        ok(not missing, 'h5py: units on every dataset', missing)
        ok(all(len(f[n.decode()].attrs['units']) == len(f[n.decode()].dtype.names)
               for n in f['tables'][:]), 'h5py: a unit a field')
        ok(f['config'].attrs['fed.rounds'] == b'6', 'h5py: parameters by their names')
        ok(list(f['rows_committed'].dims[0].keys()) == ['table'], 'h5py: dimension scale')
        ok(f['rounds_committed'][()] == 7 and len(f['rounds']) == 7, 'h5py: rounds')
        ok(h5_enum(f['events'], 'stage')[0] == 'pad', 'h5py: stages by name')
        events = f['events'][:]
        events = events[events['stage'] != 0]
        start, end = events['t_start_ns'], events['t_start_ns'] + events['dur_ns']
        ok(start.min() >= 0 and end.max() < 120e9,
           'h5py: events lie between start and end of the run', (start.min(), end.max()))
    try:
        import pandas
    except ImportError:
        skip('pandas takes every table', 'no pandas')
        return
    with h5py.File(path) as f:
        frames = {n: pandas.DataFrame(f[n.decode()][:]) for n in f['tables'][:]}
        ok(len(frames[b'/rounds']) == 7 and 'kept_4bit' in frames[b'/messages'],
           'pandas takes every table')


def check_foreign(where):
    try:
        import h5py
    except ImportError as e:
        skip('show: a foreign HDF5 file', e)
        return
    path = os.path.join(where, 'foreign.h5')
    with h5py.File(path, 'w') as f:
        f['x'] = [1, 2, 3]
    r = call(FSTQ, 'show', path)
    ok(r.returncode == 4 and 'no trace' in r.stderr, 'show: a foreign HDF5 file', r.stderr)
    with h5py.File(path, 'w') as f:
        import numpy as np
        f.attrs['format'] = np.bytes_('fstq-trace')
        f.attrs['format_version'] = 99
    r = call(FSTQ, 'show', path)
    ok(r.returncode == 4 and '99' in r.stderr, 'show: a format of the future', r.stderr)


# --- The plot ---

def plot(path, where, name):
    out = os.path.join(where, name + '.png')
    r = call(PYTHON, os.path.join(ROOT, 'scripts', 'plot_run.py'), path, out)
    size = (0, 0)
    if os.path.exists(out):
        with open(out, 'rb') as f:
            head = f.read(24)
        size = struct.unpack('>II', head[16:24]) if head[:4] == b'\x89PNG' else size
    return r, size


def many_runs(path, where):
    """A copy whose later rounds are another run: what a comparison's file looks like."""
    import h5py
    import numpy as np
    out = os.path.join(where, 'many.h5')
    shutil.copy(path, out)
    with h5py.File(out, 'r+') as f:
        for name in ('events', 'rounds', 'messages', 'links', 'eval'):
            rows = f[name][:]
            odd = (rows['version'] % 2 == 1) & (rows['run'] == 0)
            rows['run'][odd] = 1
            f[name][:] = rows
        runs = f['runs'][:]
        f['runs'].resize((2,))
        runs = np.concatenate([runs, runs])
        runs['run'] = [0, 1]
        runs['method'][1] = b'fedavg/fp16'
        f['runs'][:] = runs
        committed = f['rows_committed'][:]
        committed[list(f['tables'][:]).index(b'/runs')] = 2
        f['rows_committed'][:] = committed
    return out


def check_plot(path, where):
    if not have('h5py') or not have('matplotlib'):
        skip('plot: a whole run', 'no h5py or matplotlib')
        return
    r, whole = plot(path, where, 'whole')
    ok(r.returncode == 0 and whole[0] > 1000 and whole[1] > 600, 'plot: a whole run', r.stderr)
    r, empty = plot(writer(os.path.join(where, 'empty'), 0), where, 'empty')
    ok(r.returncode == 0 and 0 < empty[1] < whole[1], 'plot: an empty trace is a smaller figure',
       r.stderr)
    r, size = plot(writer(os.path.join(where, 'rows'), 4), where, 'rows')
    ok(r.returncode == 0 and size[1] > 0, 'plot: rows of any content', r.stderr)
    many = many_runs(path, where)
    r, size = plot(many, where, 'many')
    ok(r.returncode == 0 and size[1] > 600, 'plot: several runs', r.stderr)
    r = call(FSTQ, 'show', many)
    ok(r.returncode == 0 and 'fedavg/fp16' in r.stdout, 'show: several runs are listed', r.stderr)
    check_chrome(many, where, 'several runs')
    r, size = plot(os.path.join(where, 'nothing.h5'), where, 'nothing')
    ok(r.returncode == 1 and 'Traceback' not in r.stderr and 'nothing.h5' in r.stderr,
       'plot: a missing file is one line', r.stderr)


def check_resumed(where):
    """Killed in the middle and resumed: what was done twice shows once."""
    options = [f'run.dir={where}/dir', 'fed.rounds=9', 'net.link=fixed']
    with killed_at(130):
        path, dead = make_run(where, *options)
    ok(dead.returncode == -9, 'resumed: killed before', dead.stderr)
    before = json.loads(call(FSTQ, 'show', path, '--json').stdout)['rounds_committed']
    again = call(FSTQ, 'run', *RUN, f'trace.file={path}', *options, 'run.resume=on', cwd=where)
    ok(again.returncode == 0 and 0 < before < 10, 'resumed: goes on',
       again.stderr + again.stdout[-500:])
    r = call(FSTQ, 'show', path, '--json')
    rounds = json.loads(r.stdout)['results'][0]['rounds'] if r.returncode == 0 else []
    attempts = [row['attempt'] for row in rounds]
    versions = [row['version'] for row in rounds]
    # The checkpoint of a round is written before its rows: killed in between, it is not done again.
    ok(versions == sorted(set(versions)) and len(versions) >= 9 and versions[-1] == 9,
       'resumed: every round once, but the one that was in hand', versions)
    ok(attempts == sorted(attempts) and set(attempts) == {0, 1}, 'resumed: attempts', attempts)
    check_chrome(path, where, 'resumed')


def find_python():
    """h5py and matplotlib are the distribution's: another python3 may stand first on the PATH."""
    if 'FSTQ_TOOLS_PYTHON' in os.environ or have_here('h5py') or not os.path.exists(PYTHON):
        return
    os.environ['FSTQ_TOOLS_PYTHON'] = PYTHON
    os.execv(PYTHON, [PYTHON, os.path.abspath(__file__)])


def have_here(module):
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def main():
    find_python()
    where = tempfile.mkdtemp(prefix='fstq-tools-')
    try:
        path, run = make_run(os.path.join(where, 'run'), 'net.transport=sim', 'net.link=fixed',
                             'client.step_ns=1000000')
        ok(run.returncode == 0 and os.path.exists(path), 'a run leaves a trace', run.stderr)
        check_show(path, run)
        check_show_json(path)
        check_errors(where, path)
        check_recover(os.path.join(where, 'kill'))
        check_full(os.path.join(where, 'full'))
        check_chrome_run(path, where)
        check_chrome(writer(os.path.join(where, 'any'), 4), where, 'rows of any content')
        check_csv(writer(os.path.join(where, 'rows-csv'), 4), where)
        check_series(path, where)
        check_readers(path)
        check_foreign(where)
        check_resumed(os.path.join(where, 'resumed'))
        check_plot(path, where)
    finally:
        shutil.rmtree(where)
    print(f'1..{count}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
