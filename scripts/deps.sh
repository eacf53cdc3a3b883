#!/bin/sh
# Installs what building, testing and plotting need, where the system is Debian or Ubuntu, and
# only what is missing; elsewhere it prints the list. CUDA is never touched.
#   DEPS_NO_INSTALL=1   only looks
# Exit status: 0 = everything is here, 4 = something is missing.
set -u

# package | what shows that it is here without the package: pkg-config module (m:), program (c:),
# header (h:) or module of /usr/bin/python3 (p:)
list='
gcc                 c:gcc
g++                 c:g++
libc6-dev           h:stdio.h
make                c:make
pkg-config          c:pkg-config
git                 c:git
openmpi-bin         c:mpirun
libopenmpi-dev      m:ompi-c
libhdf5-dev         m:hdf5
libhwloc-dev        m:hwloc
libopenblas-dev     m:openblas
libxxhash-dev       m:libxxhash
librandom123-dev    h:Random123/philox.h
libjansson-dev      m:jansson
libinih-dev         m:inih
libzstd-dev         m:libzstd
liblz4-dev          m:liblz4
libcmocka-dev       m:cmocka
procps              c:pgrep
hdf5-tools          c:h5dump
python3             p:sys
python3-h5py        p:h5py
python3-numpy       p:numpy
python3-matplotlib  p:matplotlib
'

# Is it here, though not from a package of that name?
present()
{
    case $1 in
    c:*) command -v "${1#c:}" ;;
    m:*) pkg-config --exists "${1#m:}" ;;
    h:*) echo "#include <${1#h:}>" | gcc -x c -fsyntax-only - ;;
    p:*) /usr/bin/python3 -c "import importlib.util as u; exit(not u.find_spec('${1#p:}'))" ;;
    esac >/dev/null 2>&1
}

installed=
if command -v dpkg-query >/dev/null 2>&1; then
    # shellcheck disable=SC2046,SC2016
    installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' \
        $(printf '%s' "$list" | cut -d' ' -f1) 2>/dev/null | sed -n 's/^.i. *//p')
fi

# The names of the packages that are not here, on one line.
missing()
{
    printf '%s' "$list" | while read -r package sign; do
        [ -n "$package" ] || continue
        case "
$installed
" in
        *"
$package
"*) continue ;;
        esac
        present "$sign" || printf ' %s' "$package"
    done
}

want=$(missing)
[ -z "$want" ] && exit 0

if [ "${DEPS_NO_INSTALL:-0}" != 0 ]; then
    echo "deps: missing:$want" >&2
    exit 4
fi

if ! command -v apt-get >/dev/null 2>&1; then
    cat >&2 <<END
deps: this is neither Debian nor Ubuntu. Not found here:$want
Install what your system calls these packages: gcc, make, pkg-config, Open MPI 4, HDF5 1.10 (serial
C library), hwloc 2, OpenBLAS, xxHash 0.8, Random123, jansson, inih, zstd, lz4; for the tests g++
and cmocka; for plots Python 3 with h5py, numpy and matplotlib. pkg-config must find the libraries.
END
    exit 4
fi

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: missing, and neither root nor sudo to install it. As root, run:" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends$want" >&2
        exit 4
    fi
    as_root=sudo
fi

echo "deps: installing$want"
log=$(mktemp) || exit 4
trap 'rm -f "$log"' EXIT
options='-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'
# shellcheck disable=SC2086
if ! {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get $options -q update ||
        echo "deps: apt-get update failed; trying with the lists that are here"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get $options -q install -y \
        --no-install-recommends $want
} >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    echo "deps: apt-get failed (its last lines are above); missing:$want" >&2
    exit 4
fi
echo "deps: done"
