#!/usr/bin/env bash
# Another MPI: a launcher of one and a program of another are told apart, in make test-long the
# program is built with MPICH, and several ranks come to the adapter of one process.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-mpich.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
run=(run "$root/configs/quadratic.ini" fed.rounds=4 trace.file=)
PMI_SIZE=3 PMI_RANK=0 "$FSTQ" "${run[@]}" >out 2>err
check "started by another MPI's mpirun: status 4, not three jobs of one" equal "$?" 4
check "and why" contains err "it is built for another MPI"
if [ "${FSTQ_TEST_LONG:-0}" = 0 ] || ! pkg-config --exists mpich ||
    ! command -v mpirun.mpich >/dev/null; then
    skip "built with MPICH" "in make test-long, with mpich and libmpich-dev"
    finish
fi
"$FSTQ" "${run[@]}" >one 2>err
make -C "$root" --no-print-directory -j"$(nproc)" MPI=mpich CUDA=0 O="$root/build/mpich" all \
    "$root"/build/mpich/tests/{mpi/soak,mpi/hostile,preload/sends.so} >built 2>&1
check "MPI=mpich builds" equal "$?" 0
mpich=$root/build/mpich/fstq
check "it says so" eval "'$mpich' info | grep -q 'mpi .*MPICH'"
for np in 2 3 5; do
    timeout 120 mpirun.mpich -np "$np" "$mpich" "${run[@]}" >out 2>err </dev/null
    check "$np ranks: the adapter of one process" equal "$(adapter out)" "$(adapter one)"
done
# Three hosts, made of this one: what hydra would run over ssh runs here.
cat >agent <<'AGENT'
#!/bin/bash
while [ "${1#-}" != "$1" ]; do shift; done
shift
eval "exec $*"
AGENT
chmod +x agent
timeout 120 mpirun.mpich -launcher ssh -launcher-exec "$dir/agent" -iface lo \
    -hosts node1,node2,node3 -np 3 "$mpich" "${run[@]}" >out 2>err </dev/null
check "three hosts: the adapter of one process" equal "$(adapter out)" "$(adapter one)"
# Tests of frames, of bytes and of federations, whose mpirun is then this one.
mkdir bin
cat >bin/mpirun <<'SH'
#!/usr/bin/env bash
args=()
while [ $# -gt 0 ]; do
    case $1 in
    --oversubscribe) shift ;;
    --mca) shift 3 ;;
    *) args+=("$1") && shift ;;
    esac
done
exec mpirun.mpich "${args[@]}"
SH
chmod +x bin/mpirun
export FSTQ_WITNESS=$root/build/mpich/tests/preload/sends.so
for test in transport bytes federation; do
    PATH=$dir/bin:$PATH FSTQ=$mpich FSTQ_BUILD=$root/build/mpich \
        bash "$root/tests/mpi/$test.sh" >log 2>&1 </dev/null
    check "$test.sh with it" eval '! grep "^not ok" log && grep -q "^1\.\.[0-9]" log'
done
finish
