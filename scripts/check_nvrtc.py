#!/usr/bin/env python3
"""Compiles every .cu file's kernels by NVRTC, for architectures and versions of CUDA without nvcc.

  scripts/check_nvrtc.py [LIBNVRTC] [ARCH ...]      e.g. libnvrtc.so.11.2 sm_72 sm_87

One TAP line per file and architecture. Without LIBNVRTC the one of CUDA_HOME (/usr/local/cuda) is
taken, and where there is none that is said. Without ARCH: sm_87, 90, 110 and 120, as far as the
library knows them. Only kernels are compiled: launchers are the host's.
"""
import ctypes
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KERNELS = os.path.join(ROOT, 'kernels')
# What NVRTC has no headers for.
TYPES = '''
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t;
typedef unsigned long uint64_t, size_t, uintptr_t; typedef long ptrdiff_t;
#define NULL 0
#define INFINITY __int_as_float(0x7f800000)
#undef assert
#define assert(x) ((void)0)
'''
EMPTY = ('stdint.h', 'stddef.h', 'stdbool.h', 'assert.h', 'math.h', 'string.h', 'cuda_runtime.h')


def find_library():
    home = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    found = sorted(glob.glob(f'{home}/lib*/libnvrtc.so*'))
    return found[-1] if found else None


def read(name):
    with open(os.path.join(KERNELS, name), encoding='utf-8') as f:
        return f.read()


def instances(source):
    """The kernels of a file and its headers, templates as kernels/gpu_limits.txt names what is
    launched of them."""
    for header in re.findall(r'#include "(\w+\.h)"', source):
        source += read(header)
    plain = re.sub(r'__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)', '', source)
    own = set(re.findall(r'__global__\s+void\s+(\w+)\s*\(', plain))
    rows = re.findall(r'^([a-z]\w*(?:<.*?>)?)\s+\d', read('gpu_limits.txt'), re.M)
    return [r for r in rows if r.split('<')[0] in own]


class Nvrtc:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    def knows(self):
        n = ctypes.c_int()
        self.lib.nvrtcGetNumSupportedArchs(ctypes.byref(n))
        archs = (ctypes.c_int * n.value)()
        self.lib.nvrtcGetSupportedArchs(archs)
        return set(archs)

    def compile(self, name, arch):
        """'' or what is wrong"""
        source = read(name)
        heads = {h: '' for h in EMPTY}
        heads['gpu.h'] = re.sub(r'#define (LAUNCH|SHARED_LIMIT)\((?:.*\\\n)*.*\n', '',
                                read('gpu.h'))
        text = TYPES + '#define LAUNCH(...) ((void)0)\n#define SHARED_LIMIT(...) ((void)0)\n'
        program = ctypes.c_void_p()
        strings = [(ctypes.c_char_p * len(heads))(*[s.encode() for s in side])
                   for side in (heads.values(), heads)]
        self.lib.nvrtcCreateProgram(ctypes.byref(program), (text + source).encode(),
                                    name.encode(), len(heads), *strings)
        for kernel in instances(source):
            self.lib.nvrtcAddNameExpression(program, kernel.encode())
        options = [f'--gpu-architecture={arch}', '--std=c++17', '-default-device', '-D__CUDACC__',
                   f'-I{KERNELS}', f'-I{ROOT}/src', f'-I{ROOT}']
        failed = self.lib.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
        size = ctypes.c_size_t()
        self.lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.lib.nvrtcGetProgramLog(program, log)
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return (log.value.decode() or f'status {failed}') if failed else ''


def main():
    args = sys.argv[1:]
    if any(a.startswith('-') for a in args):
        sys.exit(__doc__.strip())
    path = args.pop(0) if args and not args[0].startswith('sm_') else find_library()
    if not path:
        print('1..0 # SKIP no libnvrtc in CUDA_HOME')
        return 0
    nvrtc = Nvrtc(path)
    print('# NVRTC %d.%d' % nvrtc.version)
    known = nvrtc.knows()
    archs = args or [f'sm_{a}' for a in (87, 90, 110, 120) if a in known]
    files = sorted(os.path.basename(f) for f in glob.glob(f'{KERNELS}/*.cu'))
    n = bad = 0
    seen = {kernel for name in files for kernel in instances(read(name))}
    for name in files:
        for arch in archs:
            wrong = nvrtc.compile(name, arch)
            n += 1
            bad += bool(wrong)
            print(f'{"not " if wrong else ""}ok {n} - {name}, {arch}: '
                  f'{len(instances(read(name)))} kernels', flush=True)
            for line in wrong.split('\n')[:20] if wrong else []:
                print(f'# {line}')
    rows = re.findall(r'^([a-z]\w*(?:<.*?>)?)\s+\d', read('gpu_limits.txt'), re.M)
    missed = [r for r in rows if r not in seen]
    print(f'{"not " if missed else ""}ok {n + 1} - no kernel of gpu_limits.txt is left out')
    for kernel in missed:
        print(f'# {kernel}')
    print(f'1..{n + 1}')
    return bad > 0 or bool(missed)


if __name__ == '__main__':
    sys.exit(main())
