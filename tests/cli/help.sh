#!/usr/bin/env bash
# The face of the program: help, version, lists, facts, and what it says to what it does not know.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-help.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
fstq() { "$FSTQ" "$@" >out 2>err; }

fstq
check "no command: status 2" equal "$?" 2
check "no command: usage on stderr" contains err "usage: fstq COMMAND"
for flag in --help -h help; do
    fstq $flag
    check "$flag: status 0" equal "$?" 0
    check "$flag: usage on stdout" contains out "usage: fstq COMMAND"
done
check "help explains the statuses" contains out "143 interrupted and resumable"
fstq --version
check "--version: status 0" equal "$?" 0
check "--version: version and revision" grep -Eq '^fstq [0-9]+\.[0-9]+\.[0-9]+ \(git [^)]+\)$' out
check "--version: the flags of the build" grep -Eq '^flags .*-O' out

commands=$("$FSTQ" --help | sed -n 's/^  \([a-z]*\)  *[a-z].*/\1/p' | grep -v '^fstq$\|^help$')
check "help names the commands" test "$(echo "$commands" | wc -w)" -ge 4
for command in $commands; do
    fstq "$command" --help
    check "$command --help: status 0" equal "$?" 0
    check "$command --help: its usage" contains out "usage: fstq $command"
    cp out direct
    fstq help "$command"
    check "help $command: the same" cmp -s out direct
    check "$command --help writes no file" equal "$(ls | tr '\n' ' ')" "direct err out "
    fstq "$command" --no-such-flag
    check "$command --no-such-flag: status 2" equal "$?" 2
    check "$command --no-such-flag: a word about it" test -s err
done

fstq lsit
check "unknown command: status 2" equal "$?" 2
check "unknown command: the nearest" contains err "did you mean list?"
fstq show x.h5 --clents
check "unknown option: status 2" equal "$?" 2
check "unknown option: the nearest" contains err "did you mean --clients?"
fstq show x.h5 --stage
check "the beginning of an option is one" contains err "x.h5: cannot read"
fstq help frobnicate
check "help for an unknown command: status 2" equal "$?" 2
fstq frobnicate
check "nothing near: where to look" contains err "fstq --help"

fstq list
check "list: status 0" equal "$?" 0
lists=$(sed -n 's/^  \([a-z]*\) .*/\1/p' out)
check "list names the lists" test "$(echo "$lists" | wc -w)" -ge 8
for list in $lists; do
    fstq list "$list"
    check "list $list: status 0" equal "$?" 0
    check "list $list: it has rows" grep -Eq '^ *[a-z]' out
    check "list $list: nothing on stderr" test ! -s err
done
# Every table has its floor row.
fstq list codecs
check "codecs: raw" grep -Eq '^  raw ' out
fstq list links
check "links: loopback" grep -Eq '^  loopback ' out
fstq list schemes
check "schemes: noop" grep -Eq '^  noop ' out
fstq list optoins
check "unknown list: status 2" equal "$?" 2
check "unknown list: the nearest" contains err "did you mean options?"
fstq list options -o md
check "-o md: status 0" equal "$?" 0
check "-o md: as many rows as options" equal "$(grep -c '^| `' out)" \
    "$("$FSTQ" list options | grep -c '^  [a-z]*\.')"
check "list options: [compare] is among them" grep -q '^| `compare\.seeds` ' out
check "every list in CSV and JSON lines has the names and options of its text" equal "$(
    FSTQ=$FSTQ python3 - $lists <<'END'
import csv, io, json, os, re, subprocess, sys
def say(*a): return subprocess.run([os.environ["FSTQ"], "list", *a], text=True, check=True,
                                   capture_output=True).stdout
for name in sys.argv[1:]:
    rows = list(csv.DictReader(io.StringIO(say(name, "-o", "csv"))))
    lines = [json.loads(l) for l in say(name, "-o", "jsonl").splitlines()]
    text = say(name)
    told = re.findall(r"^ +([^ ]+) ", text, re.M) + re.findall(r"^#     ([\w-]+)=", text, re.M)
    if sorted(r["Name"] for r in rows) != sorted(told) or \
            [r["Name"] for r in rows] != [l["Name"] for l in lines]:
        print(name, set(told) ^ {r["Name"] for r in rows})
END
)" ""
fstq list codecs -o yaml
check "-o with a form that is none: status 2" equal "$?" 2

fstq info
check "info: status 0" equal "$?" 0
for group in machine timing gpu sensors libraries build; do
    check "info: $group" contains out "# $group"
done
check "info: MPI" grep -Eq '^  mpi +Open MPI|^  mpi +MPICH' out
check "info: the cores allowed" grep -Eq '^  allowed +[0-9]+ PUs' out
mkdir -p sys/sys/devices/system/cpu/cpufreq/policy0 sys/proc
echo schedutil >sys/sys/devices/system/cpu/cpufreq/policy0/scaling_governor
echo 729600 >sys/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq
printf 'MemTotal:    8192000 kB\n' >sys/proc/meminfo
FSTQ_SYSFS_ROOT=$dir/sys "$FSTQ" info >out 2>err
check "info: a governor that is there" contains out "schedutil, ? to ? kHz, now 729600"
check "info: a memory that is there" grep -Eq '^  memory +8000 MiB' out
check "info: what is not there is said" grep -Eq '^  smt +unavailable: /sys.*: No such file' out
plain=$([ "$(uname -m)" = aarch64 ] && echo neon || echo base)
FSTQ_SIMD=$plain "$FSTQ" info >out 2>err
check "FSTQ_SIMD caps the instruction set" grep -Eq "^  simd +$plain\$" out
FSTQ_SIMD=sse9 "$FSTQ" info >out 2>err
check "FSTQ_SIMD with another name: status 2" equal "$?" 2
check "FSTQ_SIMD with another name is refused" contains err "FSTQ_SIMD=sse9"
HWLOC_SYNTHETIC="package:2 core:3 pu:2" "$FSTQ" info >out 2>err
check "info: a recorded machine" contains out "2 package(s)"
HWLOC_SYNTHETIC="package:2 core:3 pu:2" "$FSTQ" info --topology >out 2>err
check "info --topology: the tree" equal "$(grep -c Package out)" 2
if command -v python3 >/dev/null; then
    "$FSTQ" info --json >out
    check "info --json: JSON" python3 -c '
import json
facts = json.load(open("out"))
assert set(facts) >= {"machine", "gpu", "libraries", "build"}, facts.keys()
assert facts["build"]["version"]'
else
    skip "info --json: JSON" "no python3"
fi

# Output that goes nowhere: a reader that has left is no error, a full disk is.
"$FSTQ" list options 2>err | true
check "a closed pipe: status 0" equal "${PIPESTATUS[0]}" 0
check "a closed pipe: no complaint" test ! -s err
if [ -w /dev/full ]; then
    "$FSTQ" list options >/dev/full 2>err
    check "a full disk: status 4" equal "$?" 4
    check "a full disk: said" contains err "stdout could not be written"
else
    skip "a full disk: status 4" "no /dev/full"
fi
"$FSTQ" list options >&- 2>err
check "stdout closed: status 4" equal "$?" 4

# One of several ranks speaks.
OMPI_COMM_WORLD_RANK=1 "$FSTQ" list links >out 2>err
check "another rank is silent" test ! -s out -a ! -s err
finish
