#!/usr/bin/env bash
# A cluster on one machine: a network namespace per rank, joined by a bridge, each with a link that
# the kernel shapes, and mpirun across them over real TCP. Needs root.
#   scripts/netns-cluster.sh --help
set -u

usage() {
    cat <<'EOF'
usage: netns-cluster.sh up [OPTIONS]          make the namespaces and their links
       netns-cluster.sh run SUBCOMMAND ...    fstq SUBCOMMAND in them, a rank in each
       netns-cluster.sh link K up|down        pull the cable of rank K, or put it back
       netns-cluster.sh down                  remove everything

  --ranks N       namespaces: rank 0 is the server, the others hold the clients (default 3)
  --up RATE       from each client to the server, as tc writes it (default 20mbit)
  --down RATE     from the server to each client (default: as --up)
  --delay TIME    one way, and --loss SHARE of packets: where the kernel has netem
  --name NAME     of the cluster, for several at a time (default fstq)
  --net A.B.C     the first three numbers of its addresses (default 10.77.0)

'up' takes all of them, the others --name only, before what follows the command. Runs measure what
the kernel does: they want net.pace=none. Environment: FSTQ (the program), FSTQ_RUN (the launcher;
default: beside this script, else on the PATH).

  scripts/netns-cluster.sh up --ranks 4 --up 5mbit --down 20mbit
  scripts/netns-cluster.sh run run configs/quick.ini net.pace=none fed.rounds=3
  scripts/netns-cluster.sh run bench xfer xfer.max_bytes=1048576 --samples 3
  scripts/netns-cluster.sh down

Status: 2 for bad usage, without root, or where the kernel lacks what was asked for.
EOF
}

here=$(cd "$(dirname "$0")" && pwd)
say() { echo "netns-cluster: $*" >&2; }
refuse() { say "$1"; exit 2; }

ranks=3 up=20mbit down='' delay='' loss='' name=fstq net=10.77.0
command=${1:-}
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
    case $1 in
    --ranks | --up | --down | --delay | --loss | --name | --net)
        [ $# -ge 2 ] || refuse "$1 needs a value; see --help"
        declare "${1#--}=$2"
        shift 2 ;;
    *) break ;;
    esac
done
case $command in
-h | --help | help) usage; exit 0 ;;
up | run | link | down) ;;
'') usage >&2; exit 2 ;;
*) refuse "$command: no such command; see --help" ;;
esac
[[ $name =~ ^[a-z][a-z0-9]{0,7}$ ]] || refuse "--name $name: letters and digits, at most 8"
[[ $net =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || refuse "--net $net: three numbers, as in 10.77.0"
[[ $ranks =~ ^[0-9]+$ ]] && [ "$ranks" -ge 2 ] && [ "$ranks" -le 200 ] ||
    refuse "--ranks $ranks: from 2 to 200"
down=${down:-$up}
[ "$(id -u)" = 0 ] || refuse "network namespaces need root; start this with sudo"
for tool in ip tc; do
    command -v $tool >/dev/null || refuse "there is no $tool here; install iproute2"
done
state=${TMPDIR:-/tmp}/netns-$name
bridge=$name-br

# Everything of this name, however far 'up' came: namespaces take their links with them.
remove() {
    local ns
    for ns in $(ip netns list 2>/dev/null |
        awk -v n="$name" '$1 ~ "^" n "-(br|[0-9]+)$" { print $1 }'); do
        # shellcheck disable=SC2046 # a list of numbers
        kill $(ip netns pids "$ns") 2>/dev/null
        ip netns del "$ns"
    done
    rm -rf "$state"
}

# Bytes that may leave at once: 10 ms of the rate, at least what one large packet needs.
burst() { # rate
    awk -v r="$1" 'BEGIN {
        u["gbit"] = 1e9; u["mbit"] = 1e6; u["kbit"] = 1e3; u["bit"] = 1
        v = r + 0; s = r; sub(/^[0-9.]+/, "", s)
        if (!(s in u) || v <= 0) exit 1
        b = v * u[s] / 8 / 100
        printf "%d", (b > 32768 ? b : 32768) }'
}

shape() { # namespace device rate
    local bytes
    bytes=$(burst "$3") || { say "$3: not a rate; write it as 20mbit or 500kbit"; return 1; }
    if [ -n "$delay$loss" ]; then
        tc -n "$1" qdisc add dev "$2" root handle 1: netem limit 10000 \
            ${delay:+delay "$delay"} ${loss:+loss "$loss"} 2>"$state/netem" || {
            say "this kernel has no netem, or takes no delay '$delay' and loss '$loss':" \
                "$(head -n 1 "$state/netem"); leave them out (net.loss models loss)"
            return 1
        }
        tc -n "$1" qdisc add dev "$2" parent 1: handle 2: tbf rate "$3" burst "$bytes" latency 400ms
    else
        tc -n "$1" qdisc add dev "$2" root tbf rate "$3" burst "$bytes" latency 400ms
    fi
}

add_rank() { # number
    local ns=$name-$1
    ip netns add "$ns" &&
        ip -n "$ns" link set lo up &&
        ip link add "v$1" netns "$bridge" type veth peer name eth0 netns "$ns" &&
        ip -n "$ns" addr add "$net.$(($1 + 1))/24" dev eth0 &&
        ip -n "$ns" link set eth0 up &&
        ip -n "$bridge" link set "v$1" master br0 up || return 1
    if [ "$1" -gt 0 ]; then # the server's own port is as fast as the kernel
        shape "$ns" eth0 "$up" && shape "$bridge" "v$1" "$down"
    fi
}

start_up() {
    ip netns list | grep -q "^$bridge\b" &&
        refuse "$name is up already; netns-cluster.sh down --name $name"
    trap 'remove; exit 2' ERR INT TERM
    mkdir -p "$state"
    {
        ip netns add "$bridge" &&
            ip -n "$bridge" link add br0 type bridge &&
            ip -n "$bridge" link set br0 up
    } || { remove; refuse "this kernel makes no namespace or bridge here"; }
    for ((k = 0; k < ranks; k++)); do
        add_rank "$k" || { remove; exit 2; }
    done
    trap - ERR INT TERM
    echo "$ranks $net" >"$state/cluster"
    # What mpirun calls instead of ssh: HOST COMMAND... A host name of its own keeps ranks from
    # meeting in shared memory.
    cat >"$state/rsh" <<EOF
#!/bin/sh
host=\$1
shift
exec ip netns exec "\$host" unshare -u sh -c 'hostname "\$0" && exec sh -c "\$1"' "\$host" "\$*"
EOF
    chmod +x "$state/rsh"
    echo "# $name: $ranks ranks, up $up, down $down${delay:+, delay $delay}${loss:+, loss $loss}"
}

run_in() { # subcommand...
    local hosts='' k
    [ -f "$state/cluster" ] || refuse "$name is not up; see --help"
    [ $# -gt 0 ] || refuse "run needs a subcommand of fstq"
    read -r ranks net <"$state/cluster"
    for ((k = 0; k < ranks; k++)); do
        hosts+=${hosts:+,}$name-$k:1
    done
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    local launcher=$here/fstq-run
    [ -x "$launcher" ] || launcher=fstq-run
    # shellcheck disable=SC2016 # for the inner shell
    exec ip netns exec "$name-0" unshare -u sh -c 'hostname "$0" && exec "$@"' "$name-0" \
        "${FSTQ_RUN:-$launcher}" -np "$ranks" -H "$hosts" \
        --mca plm_rsh_agent "$state/rsh" --mca plm_rsh_no_tree_spawn 1 \
        --mca oob_tcp_if_include "$net.0/24" --mca btl self,tcp \
        --mca btl_tcp_if_include "$net.0/24" "$@"
}

case $command in
up) [ $# = 0 ] || refuse "$1: no such option; see --help"; start_up ;;
run) run_in "$@" ;;
link)
    [ $# = 2 ] && [[ $1 =~ ^[0-9]+$ && $2 =~ ^(up|down)$ ]] || refuse "link K up|down; see --help"
    ip -n "$bridge" link set "v$1" "$2" || exit 2 ;;
down) remove ;;
esac
