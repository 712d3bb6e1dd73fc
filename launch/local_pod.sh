#!/usr/bin/env bash
# N processes of one command on this machine, joined over the loopback interface, e.g.
#
#   launch/local_pod.sh 2 python -m lagseg_jax.main --config=configs/demo.py --workdir=runs/demo
#
# The command gets --coordinator_address, --num_processes and --process_id. Every process uses all
# devices that it sees; simulated ones come from
# XLA_FLAGS=--xla_force_host_platform_device_count=2. Exits with the first status that is not 0;
# SIGTERM and Ctrl-C reach all processes, as SIGTERM.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 N COMMAND [ARGUMENT]..." >&2
    exit 2
fi
count=$1
shift

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$(python3 -c "$free_port")

processes=()
signalled=
trap 'signalled=yes; kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT
for ((id = 0; id < count; id++)); do
    "$@" --coordinator_address="127.0.0.1:$port" --num_processes="$count" --process_id="$id" &
    processes+=("$!")
done

status=0
for process in "${processes[@]}"; do
    while true; do
        signalled=
        wait "$process" && code=0 || code=$?
        [[ $signalled ]] || break # else it was the signal that ended `wait`
    done
    if ((status == 0)); then status=$code; fi
done
exit "$status"
