#!/usr/bin/env bash
# fstq doctor: says what is wrong with a machine, here one that is made up, and with which remedy;
# on several ranks it looks at each host once.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-doctor.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

"$FSTQ" doctor >out 2>err
status=$?
check "its status is what its verdict says" eval \
    "{ [ $status = 0 ] && [ \"\$(tail -n 1 out)\" = '# VALID' ]; } ||
     { [ $status = 1 ] && tail -n 1 out | grep -q '^# INVALID'; }"
check "a line per check, and no other" equal "$(grep -vc '^#' out)" 13
check "every line has its level" equal \
    "$(grep -v '^#' out | grep -vcE '^  (ok|note|warn|FAIL) +[a-z]')" 0
check "as many warnings as it counts" equal "$(grep -c '^  warn' out)" \
    "$(sed -n 's/^# \([0-9]*\) warnings*$/\1/p' out)"
# The same findings in every form of a table.
for form in md csv jsonl json; do
    "$FSTQ" doctor -o $form >out.$form 2>err
done
check "Markdown: a row per check" equal \
    "$(grep -cE '^\| [^|]+ \| 0 \| (ok|note|warn|FAIL) ' out.md)" 13
check "CSV, JSON lines and JSON: the same checks" equal "$(python3 - <<'END'
import csv, json
rows = list(csv.DictReader(l for l in open("out.csv") if l[0] != "#"))
lines = [json.loads(l) for l in open("out.jsonl")]
whole = json.load(open("out.json"))
names = [r["Check"] for r in rows]
print(len(rows), names == [l["Check"] for l in lines] == [f["check"] for f in whole["findings"]],
      whole["warnings"] == sum(f["level"] == "warn" for f in whole["findings"]))
END
)" "13 True True"
"$FSTQ" doctor -o jsn >out 2>err
check "a form that is none: status 2" equal "$?" 2
"$FSTQ" doctor now >out 2>err
check "an argument: status 2" equal "$?" 2

# A machine by its files.
mkdir -p root/sys/devices/system/cpu/cpufreq/policy0 root/sys/kernel/mm/transparent_hugepage \
    root/proc root/etc
echo powersave >root/sys/devices/system/cpu/cpufreq/policy0/scaling_governor
echo "always madvise [never]" >root/sys/kernel/mm/transparent_hugepage/enabled
echo "99.00 98.00 97.00 1/200 4000" >root/proc/loadavg
printf 'MemTotal: 4096000 kB\nMemAvailable: 204800 kB\n' >root/proc/meminfo
echo "# R36 (release), REVISION: 4.0, BOARD: generic" >root/etc/nv_tegra_release
FSTQ_SYSFS_ROOT=$dir/root "$FSTQ" doctor >sick 2>err
warns() { check "$1" grep -qE "^  $2 +$3 " sick; }
warns "a governor that saves power" warn governor
warns "no huge pages" warn "huge pages"
warns "a machine that is busy" warn load
warns "little memory" warn memory
warns "a Jetson's power mode" note "power mode"
check "with what to do" contains sick "cpupower frequency-set -g performance"
check "and for the Jetson" contains sick "nvpmodel -q"
sed -i 's/powersave/performance/' root/sys/devices/system/cpu/cpufreq/policy0/scaling_governor
echo "always [madvise] never" >root/sys/kernel/mm/transparent_hugepage/enabled
FSTQ_SYSFS_ROOT=$dir/root "$FSTQ" doctor >sick 2>err
warns "put right, the governor is fine" ok governor
warns "and so are huge pages" ok "huge pages"
(ulimit -n 200 && "$FSTQ" doctor >sick 2>err)
warns "few open files" warn files
mkdir closed && cd closed && chmod a-w .
if [ "$(id -u)" != 0 ]; then
    "$FSTQ" doctor >../sick 2>err
    check "a folder that cannot be written: status 1" equal "$?" 1
else
    skip "a folder that cannot be written" "root may write anywhere"
fi
cd ..

mpirun --oversubscribe -np 3 "$FSTQ" doctor >out 2>err
check "three ranks: each host once" equal "$(grep -c ' mpi  ' out)" 1
check "and their number" contains out "3 ranks, fstq"
check "the same build everywhere is no finding" equal "$(grep -cE '^  FAIL +(version|mpi)' out)" 0
finish
