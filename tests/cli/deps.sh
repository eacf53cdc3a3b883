#!/usr/bin/env bash
# scripts/deps.sh on systems that are not this one, made of a few programs in a directory.
set -u
. "$(dirname "$0")/../tap.bash"
script=$(cd "$(dirname "$0")/../../scripts" && pwd)/deps.sh
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-deps.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin"
for tool in sh env cut sed mktemp tail cat rm; do
    ln -s "$(command -v $tool)" "$dir/bin/"
done

fake() # name body: a program of the made-up system; it logs how it was called
{
    printf '#!/bin/sh\necho "%s $*" >>"%s/calls"\n%s\n' "$1" "$dir" "$2" >"$dir/bin/$1"
    chmod +x "$dir/bin/$1"
}
run() # expected status [variables]: deps.sh there; its words in $dir/log
{
    local want=$1
    shift
    : >"$dir/calls"
    env -i PATH="$dir/bin" TMPDIR="$dir" "$@" sh "$script" >"$dir/log" 2>&1
    equal "$?" "$want"
}
says() { contains "$dir/log" "$1"; }
called() { contains "$dir/calls" "$1"; }
no_word() { [ ! -s "$dir/log" ]; }
never() { ! grep -q "$1" "$dir/calls"; }
lacks() { ! grep -q -- "$1" "$dir/log"; }

check "no Debian: status 4" run 4
check "no Debian: the list" says "libhwloc-dev"
check "no Debian: what to do" says "pkg-config must find the libraries"

fake dpkg-query 'printf "ii gcc\nii g++\nii make\nrc git\n"'
check "only looking: status 4" run 4 DEPS_NO_INSTALL=1
check "only looking: what is missing" says "git openmpi-bin libopenmpi-dev"
check "only looking: not what is here" lacks " gcc"

fake apt-get '[ "$DEBIAN_FRONTEND" = noninteractive ] || exit 9'
fake id 'echo 0'
check "root: status 0" run 0
check "root: it says what" says "deps: installing libc6-dev pkg-config git"
check "root: lists first" called "-q update"
check "root: no more than needed" called "install -y --no-install-recommends libc6-dev pkg-config"
check "root: what is here is left alone" never 'recommends.* gcc '

fake id 'echo 1000'
check "neither root nor sudo: status 4" run 4
check "neither root nor sudo: the command" says "apt-get install -y --no-install-recommends libc6"
check "neither root nor sudo: nothing is run" never apt-get
fake sudo 'exec "$@"'
check "sudo: status 0" run 0
check "sudo: it was asked" called "sudo env DEBIAN_FRONTEND=noninteractive apt-get"

fake apt-get 'case $* in *update*) exit 100 ;; *) echo E: broken packages >&2; exit 100 ;; esac'
check "apt fails: status 4" run 4
check "apt fails: its words" says "E: broken packages"

fake apt-get 'case $* in *update*) exit 100 ;; esac'
check "no network, but the packages are at hand: status 0" run 0

fake dpkg-query "sed -n 's/^\\([a-z0-9+-]*\\)  *[cmhp]:.*/ii \\1/p' '$script'"
check "nothing is missing: status 0" run 0
check "nothing is missing: not a word" no_word
check "nothing is missing: no apt" never apt-get

for tool in gcc g++ make git mpirun pgrep h5dump python3; do fake $tool ''; done
fake pkg-config 'exit 0'
rm "$dir/bin/dpkg-query" "$dir/bin/apt-get"
if /usr/bin/python3 -c 'import h5py, numpy, matplotlib' 2>/dev/null; then
    check "another system with all of it: status 0" run 0
    check "another system with all of it: not a word" no_word
else
    skip "another system with all of it" "no h5py, numpy or matplotlib here"
fi
finish
