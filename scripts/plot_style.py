"""What the plots share: matplotlib without a screen, one look, units of bytes."""
import os
import sys

try:
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import numpy as np  # noqa: F401, for those who draw
except ImportError as e:
    sys.exit(f'{os.path.basename(sys.argv[0])}: {e}; on Debian and Ubuntu: '
             'apt-get install python3-matplotlib')

BYTES = [(1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB'), (1, 'B')]


def style(**more):
    plt.rcParams.update({
        'font.size': 8,
        'axes.titlesize': 9, 'axes.titleweight': 'bold', 'axes.titlelocation': 'left',
        'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
        'grid.color': '#E4E4E4', 'grid.linewidth': 0.6, 'axes.axisbelow': True,
        'lines.linewidth': 1.5, 'legend.frameon': False, 'legend.fontsize': 7.5,
        'figure.dpi': 160, 'savefig.dpi': 160, 'svg.hashsalt': 'fstq', **more})
