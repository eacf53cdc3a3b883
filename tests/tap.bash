# TAP for shell tests and what they read of a run: source this, call check/skip, end with finish.
if [ "$(id -u)" = 0 ]; then # mpirun wants to be asked twice
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
tap_n=0
tap_bad=0
check() # name condition-command...
{
    local name=$1 log
    shift
    tap_n=$((tap_n + 1))
    if "$@"; then
        echo "ok $tap_n - $name"
    else
        echo "not ok $tap_n - $name"
        echo "#   failed: $*"
        # What the command under test said last, by these tests' custom in out and err.
        for log in out err; do
            [ -s "$log" ] && echo "#   $log:" && tail -n 8 "$log" | sed 's/^/#     /'
        done
        tap_bad=$((tap_bad + 1))
        return 1
    fi
}
skip() # name reason
{
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1 # SKIP $2"
}
equal() { # got expected
    [ "$1" = "$2" ] || { echo "#   got '$1', expected '$2'"; false; }
}
contains() # file text
{
    grep -qF -- "$2" "$1" || { echo "#   no '$2' in:"; sed 's/^/#     /' "$1" | tail -n 20; false; }
}
adapter() # log: the hash of the final adapter
{
    sed -n 's/^# adapter //p' "$1"
}
# A background job is a copy of this shell until it has become its program: a signal that comes too
# early runs this shell's trap at exit in it, which removes the test's folder.
begun() # pid of a job that is no shell itself
{
    while [ "/proc/$1/exe" -ef "/proc/$$/exe" ]; do sleep 0.002; done
}
stop_at_checkpoint() # signal run.dir command...: started, and sent it once there is a checkpoint
{
    local signal=$1 dir=$2 pid
    shift 2
    "$@" >stopped 2>&1 &
    pid=$!
    for _ in $(seq 4000); do
        [ -f "$dir/server.a.ckpt" ] && break
        sleep 0.005
    done
    kill -"$signal" $pid
    wait $pid 2>/dev/null
}
run() # ranks log options...: of what base=(...) says; some tests have a run of their own
{
    local np=$1 log=$2
    shift 2
    if [ "$np" = 1 ]; then
        "$FSTQ" run "${base[@]}" "$@" >"$log" 2>&1
    else
        mpirun --oversubscribe -np "$np" "$FSTQ" run "${base[@]}" "$@" >"$log" 2>&1
    fi
}
finish() {
    echo "1..$tap_n"
    exit $((tap_bad > 0))
}
