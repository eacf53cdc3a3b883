#!/usr/bin/python3
"""Reads a trace of fstq (HDF5) into numpy arrays, by the rules of the file:

only rows that were committed, no padding, of each round the newest attempt. Run as a program it
says what it found: fstq_trace.py FILE.h5
"""
import sys

try:
    import h5py
    import numpy as np
except ImportError as e:
    sys.exit(f'{sys.argv[0]}: {e}; on Debian and Ubuntu: apt-get install python3-h5py')

PAD_STAGE = 0


def text(value):
    """A fixed-length string of the file, as str."""
    if isinstance(value, bytes):
        return value.rstrip(b'\0').decode('utf-8', 'replace')
    return str(value)


class Trace:
    """attrs and config: dicts of str; tables: structured arrays by name without '/'."""

    def __init__(self, path):
        self.path = path
        with h5py.File(path, 'r') as f:
            if text(f.attrs.get('format', b'')) != 'fstq-trace':
                raise ValueError(f'{path}: an HDF5 file, but no trace of fstq')
            self.attrs = {k: text(v) for k, v in f.attrs.items()}
            self.config = {k: text(v) for k, v in f['config'].attrs.items()}
            self.stages = f['stages'][:]
            self.tables = {}
            for name, rows in zip(f['tables'][:], f['rows_committed'][:]):
                name = text(name)
                self.tables[name.strip('/')] = self._drop_padding(name, f[name][:rows])
        self._drop_superseded()
        self.stage_names = [text(s) for s in self.stages['name']]
        self.stage_inner = [bool(s) for s in self.stages['inner']]

    def __getitem__(self, name):
        return self.tables[name]

    @staticmethod
    def _drop_padding(name, rows):
        if name == '/events':
            return rows[rows['stage'] != PAD_STAGE]
        return rows[rows['rank' if name == '/meta/ranks' else 'run'] != -1]

    def _drop_superseded(self):
        best = {}
        for r in self.tables['rounds']:
            key = (r['run'], r['version'])
            best[key] = max(best.get(key, 0), r['attempt'])
        if not any(best.values()):
            return
        for name, rows in self.tables.items():
            if 'attempt' in (rows.dtype.names or ()):
                keep = [r['attempt'] >= best.get((r['run'], r['version']), 0) for r in rows]
                self.tables[name] = rows[np.array(keep, bool)]

    def runs(self):
        """(run, method, setting) of each run."""
        seen = {}
        for r in self.tables['runs']:
            seen[int(r['run'])] = (text(r['method']), text(r['setting']))
        for r in np.unique(self.tables['rounds']['run']):
            seen.setdefault(int(r), ('', ''))
        return [(k, *v) for k, v in sorted(seen.items())]

    def rounds(self, run):
        """The rows of /rounds of one run, by version."""
        rows = self.tables['rounds']
        rows = rows[rows['run'] == run]
        return rows[np.argsort(rows['version'], kind='stable')]


def main():
    if len(sys.argv) != 2:
        sys.exit('usage: fstq_trace.py FILE.h5')
    try:
        t = Trace(sys.argv[1])
    except (OSError, KeyError, ValueError) as e:
        sys.exit(f'fstq_trace.py: {e}')
    for name, rows in t.tables.items():
        print(f'{name:12} {len(rows):8} rows of {len(rows.dtype.names)} fields')


if __name__ == '__main__':
    main()
