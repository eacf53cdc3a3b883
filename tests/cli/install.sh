#!/usr/bin/env bash
# What `make install` puts down works where it lies, and knows nothing of the checkout.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}" "${FSTQ_BUILD:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-install.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

# -o all: as it is built, whatever it was built with.
make -C "$root" -o all install O="$FSTQ_BUILD" DESTDIR="$dir/stage" PREFIX=/opt/fstq >log 2>&1
check "make install: status 0" equal "$?" 0
check "nothing outside DESTDIR/PREFIX" equal "$(find stage -type f | grep -vc '^stage/opt/fstq/')" 0
prefix=$dir/stage/opt/fstq
check "the program" cmp "$prefix/bin/fstq" "$FSTQ"
for config in "$root"/configs/*.ini; do
    check "$(basename "$config")" cmp "$prefix/share/fstq/configs/$(basename "$config")" "$config"
done

unset FSTQ
mv stage moved
prefix=$dir/moved/opt/fstq
check "the launcher finds the program beside it" \
    eval "'$prefix/bin/fstq-run' -np 2 --dry-run run x | grep -q ' $prefix/bin/fstq run x'"
ln -s "$prefix/bin/fstq-run" link
check "also through a link" \
    eval "./link -np 2 --dry-run run x | grep -q ' $prefix/bin/fstq run x'"
"$prefix/bin/fstq-run" -np 2 run "$prefix/share/fstq/configs/quadratic.ini" fed.rounds=2 >out 2>err
check "an installed run: status 0" equal "$?" 0
check "an installed run: VALID" equal "$(tail -n 1 out)" "# VALID"
check "an installed run: its trace is where it was started" test -s quadratic.h5
PATH=$prefix/bin:$PATH NP=2 FSTQ_RUN_DIR=slurm "$prefix/share/fstq/scripts/fstq.sbatch" \
    "$prefix/share/fstq/configs/quadratic.ini" fed.rounds=2 >out 2>err
check "Slurm's template finds the launcher" equal "$?: $(tail -n 1 out)" "0: # VALID"
"$prefix/bin/fstq" report quadratic.h5 -o page >out 2>err
check "the manual, the parameters" eval \
    "grep -q '^.TH FSTQ 1' '$prefix/share/man/man1/fstq.1' &&
    grep -q 'fed.rounds = ' '$prefix/share/man/man5/fstq.5'"
check "the launcher's manual, and no program that is none" eval \
    "grep -q '^ *.-np N' '$prefix/share/man/man1/fstq-run.1' &&
    test -x '$prefix/share/fstq/scripts/report.py' &&
    ! test -x '$prefix/share/fstq/scripts/report_svg.py'"
check "completion, and schemas" eval \
    "bash -n '$prefix/share/bash-completion/completions/fstq' &&
    test -s '$prefix/share/zsh/site-functions/_fstq' &&
    test -s '$prefix/share/fstq/schemas/show.schema.json'"
check "an installed report: status 0" equal "$?" 0
check "and it is drawn" grep -q '<svg' page/report.html

# The sources as a file: what git has, and which revision that is.
if git -C "$root" rev-parse HEAD >rev 2>/dev/null; then
    made=$(make -s -C "$root" dist 2>err | tail -n 1)
    check "make dist: the sources" eval "tar tzf '$root/$made' >list && grep -q '/src/main.c$' list"
    check "make dist: their revision" equal \
        "$(tar xzOf "$root/$made" "$(basename "$made" .tar.gz)/REVISION" | cut -c 1-12)" \
        "$(cut -c 1-12 rev)"
    check "make dist: what is built is no part of it" equal "$(grep -c '/build/' list)" 0
else
    skip "make dist" "no checkout of git"
fi
finish
