"""The suite as tests of a cluster, for ReFrame (reframe-hpc.readthedocs.io):

    reframe -C SITE.py -c packaging/reframe_fstq.py -r [-S FederationTest.ranks=5]
        [-S config=PATH] [-S 'more=fed.rounds=3 dev.threads=2']

A run has to be VALID and to give the adapter that one process gives for the same configuration,
whatever the number of ranks and nodes; how long rounds took and what went up are recorded by
system. Frames between two ranks, beside raw MPI, are the second test. 'fstq' is taken from PATH (a
module, or -S program=PATH); a site's reference values go into 'reference'.
"""
import os
import re
import subprocess

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import performance_function, run_before, sanity_function, variable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What the summary's sizes and times are said in.
UNITS = {'B': 1, 'kB': 1e3, 'MB': 1e6, 'GB': 1e9, 'ns': 1e-9, 'us': 1e-6, 'ms': 1e-3, 's': 1}


def amount(value, unit):
    return float(value) * UNITS[unit]


class FstqTest(rfm.RunOnlyRegressionTest):
    program = variable(str, value='fstq')
    ranks = variable(int, value=3)
    valid_systems = ['*']
    valid_prog_environs = ['*']

    @run_before('run')
    def take_ranks(self):
        self.num_tasks = self.ranks
        self.executable = self.program


@rfm.simple_test
class FederationTest(FstqTest):
    """A federation over MPI: valid, with the adapter of one process."""
    config = variable(str, value=os.path.join(ROOT, 'configs', 'quick.ini'))
    more = variable(str, value='fed.rounds=3')

    @run_before('run')
    def take_options(self):
        self.executable_opts = ['run', self.config, *self.more.split(), 'trace.file=']

    @sanity_function
    def same_adapter(self):
        alone = subprocess.run([self.program, *self.executable_opts], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False).stdout
        adapter = re.search(r'adapter (xxh3:[0-9a-f]{16})', alone)
        return sn.all([
            sn.assert_true(adapter, f'one process says no adapter:\n{alone}'),
            sn.assert_found(r'^# VALID$', self.stdout, 'the run is not VALID'),
            sn.assert_found(rf'^# ranks {self.ranks} ', self.stdout, 'other ranks than asked for'),
            sn.assert_found(adapter.group(1) if adapter else '', self.stdout,
                            'another adapter than that of one process'),
        ])

    @performance_function('s')
    def rounds(self):
        line = sn.extractsingle(r'rounds took (\S+ \S+) measured', self.stdout, 1)
        return amount(*str(line).split())

    @performance_function('B')
    def uplink(self):
        line = sn.extractsingle(r'^# uplink (\S+ \S+),', self.stdout, 1)
        return amount(*str(line).split())


@rfm.simple_test
class FrameTest(FstqTest):
    """A frame of 1 MiB between two ranks, beside raw MPI."""
    ranks = 2

    @run_before('run')
    def take_options(self):
        self.executable_opts = ['bench', 'xfer', 'xfer.min_bytes=1048576', 'xfer.max_bytes=1048576',
                                '--samples', '5', '-o', 'csv']

    @sanity_function
    def passes(self):
        return sn.assert_found(r'^1048576,.*,Pass$', self.stdout)

    @performance_function('us')
    def frame(self):
        return sn.extractsingle(r'^1048576,[^,]*,([0-9.]+),', self.stdout, 1, float)

    @performance_function('us')
    def raw_mpi(self):
        return sn.extractsingle(r'^1048576,([0-9.]+),', self.stdout, 1, float)
