#!/usr/bin/env bash
# Time and memory by registered clients, sampled clients and coordinates, on `quadratic` over the
# simulated transport: the tables of bench/results/scale.md, on stdout.
#   bench/scale.sh [FSTQ]     the program, build/release/fstq if none is given
# Times are CPU seconds of the whole process (user and system) where a head says CPU.
set -eu
cd "$(dirname "$0")/.."
fstq=${1:-build/release/fstq}
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-scale.XXXXXX")
trap 'rm -rf "$dir"' EXIT
base=(run configs/quadratic.ini net.transport=sim net.sim_workers=4 fed.nmse=off fed.eval_every=0
    trace.file= fed.batch=4 fed.local_steps=1 task.samples=4)

# Fields of a run: CPU seconds, peak KiB, booked MiB, then time and CPU of the stages named, in
# seconds, "-" where there is none.
measure() # stage,... option...
{
    local stages=$1
    shift
    rm -rf "$dir/run"
    TIMEFORMAT='%U %S'
    { time "$fstq" "${base[@]}" "$@" >"$dir/out" 2>"$dir/err" || cat "$dir/err" >&2; } \
        2>"$dir/time"
    awk -v stages="$stages" '
        function seconds(value, unit) {
            return value * (unit == "ns" ? 1e-9 : unit == "us" ? 1e-6 : unit == "ms" ? 1e-3 : 1)
        }
        FILENAME ~ /time$/ { cpu = $1 + $2; next }
        /^# memory/ {
            match($0, /booked [0-9.]+/); booked = substr($0, RSTART + 7, RLENGTH - 7)
            match($0, /at most [0-9.]+/); peak = substr($0, RSTART + 8, RLENGTH - 8)
        }
        !/^#/ && NF > 6 { at[$1] = seconds($4, $5); used[$1] = seconds($7, $8) }
        END {
            printf "%.3f %.1f %.1f", cpu, peak, booked
            n = split(stages, s, ",")
            for (i = 1; i <= n; i++) printf " %.6f", used[s[i]]
            printf "\n"
        }' "$dir/time" "$dir/out"
}

echo "registered clients (100 per round, 20 rounds, topk+ef: 80 values kept of each in turn):"
echo
echo "| clients | CPU s of 20 rounds | us CPU per client, round | booked MiB | B per idle client |"
echo "|---|---|---|---|---|"
small=(task.features=20 task.outputs=4 fed.clients_per_round=100 fed.method=fedavg/topk+ef)
for n in 100 1000 10000 100000; do
    read -r none _ less < <(measure round "${small[@]}" fed.clients=$n fed.rounds=1)
    read -r cpu _ booked < <(measure round "${small[@]}" fed.clients=$n fed.rounds=21)
    [ "$n" = 100 ] && first=$less
    awk -v n=$n -v none="$none" -v cpu="$cpu" -v booked="$booked" -v less="$less" \
        -v first="$first" 'BEGIN { printf "| %d | %.2f | %.1f | %.1f | %s |\n", n, cpu - none,
            (cpu - none) / 2000 * 1e6, booked,
            n == 100 ? "-" : sprintf("%.0f", (less - first) * 1048576 / (n - 100)) }'
done
echo
echo "sampled clients (100,000 registered, int:bits=4, 80 values):"
echo
echo "| per round | CPU ms per round | us CPU per client and round | booked MiB |"
echo "|---|---|---|---|"
for n in 10 100 1000 10000 100000; do
    rounds=$((n < 10000 ? 20 : 3))
    sampled=(task.features=20 task.outputs=4 fed.clients=100000 fed.clients_per_round=$n
        fed.method=fedavg/int:bits=4)
    read -r none _ < <(measure round "${sampled[@]}" fed.rounds=1)
    read -r cpu _ booked < <(measure round "${sampled[@]}" fed.rounds=$((rounds + 1)))
    awk -v n=$n -v r=$rounds -v none="$none" -v cpu="$cpu" -v booked="$booked" 'BEGIN {
        printf "| %d | %.2f | %.1f | %.1f |\n", n, (cpu - none) / r * 1e3,
            (cpu - none) / r / n * 1e6, booked }'
done
echo
echo "coordinates (50 clients, 4 rounds): the server's decode, ns CPU a received coordinate:"
echo
echo "| coordinates | fp32 | int:bits=4 | sign | topk:ratio=0.01 |"
echo "|---|---|---|---|---|"
for side in 10 100 316 1000; do
    printf '| %d |' $((side * side))
    for codec in fp32 int:bits=4 sign topk:ratio=0.01; do
        read -r _ _ _ cpu < <(measure decode task.features=$side task.outputs=$side fed.clients=50 \
            fed.clients_per_round=50 fed.rounds=4 fed.method=fedavg/$codec)
        awk -v cpu="$cpu" -v n=$((side * side * 200)) 'BEGIN { printf " %.3f |", cpu / n * 1e9 }'
    done
    echo
done
echo
echo "relays (1,000 clients per round, 9,975 coordinates, the server's port 100 Mbit/s, relays"
echo "on 1 Gbit/s; per round): bytes into the server, modelled time, CPU of the whole process:"
echo
echo "| codec | relays | bytes in | B per coordinate and relay | modelled s | CPU ms |"
echo "|---|---|---|---|---|---|"
for codec in fp32 int:bits=4; do
    for relays in 0 1 4 16 64; do
        tree=(task.features=105 task.outputs=95 fed.clients=1000 fed.clients_per_round=1000
            fed.method=fedavg/$codec fed.relays=$relays net.sim_workers=1 net.link=lte-20
            net.port_up_bps=1e8 net.relay_link=ethernet-1g net.arena_bytes=1e9)
        [ "$relays" -gt 0 ] && tree+=(fed.sum=exact)
        read -r none _ < <(measure round "${tree[@]}" fed.rounds=1)
        read -r cpu _ < <(measure round "${tree[@]}" fed.rounds=3 trace.file="$dir/tree.h5")
        rm -rf "$dir/csv"
        "$fstq" export "$dir/tree.h5" --csv "$dir/csv" >/dev/null
        rm -f "$dir/tree.h5"
        awk -F, -v codec="$codec" -v r="$relays" -v none="$none" -v cpu="$cpu" '
            NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
            $at["version"] > 0 { n++; up += $at["uplink_bytes"]; sum += $at["relay_up_bytes"]
                t += $at["time_modelled_ns"] }
            END { in_ = (r ? sum : up) / n
                printf "| %s | %d | %.0f | %s | %.3f | %.0f |\n", codec, r, in_,
                    r ? sprintf("%.2f", in_ / r / 9975) : "-", t / n * 1e-9, (cpu - none) / 2 * 1e3
            }' "$dir/csv/rounds.csv"
    done
done
