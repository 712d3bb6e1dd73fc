#!/usr/bin/env bash
# Training on a Cloud TPU VM, or on all workers of a TPU pod, from a machine with gcloud:
#
#   launch/tpu_pod.sh my-tpu us-central2-b --config=configs/base.py --workdir=/mnt/lagseg/runs/base \
#       --config.data.root=/mnt/lagseg/DATASET --config.encoder.weights=/mnt/lagseg/weights/base
#
# Copies the committed state of this repository to all workers and runs the same command there.
# SHARE=ADDRESS:/FOLDER mounts a network file system (Filestore, say) at /mnt/lagseg on all of them:
# workdir, data and weights of a pod lie where all workers see them. The same command resumes.
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: [SHARE=ADDRESS:/FOLDER] $0 TPU ZONE ARGUMENT..." >&2
    exit 2
fi
tpu=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$tpu:lagseg_jax.tar.gz" --zone="$zone" --worker=all

mount=true
if [[ -n ${SHARE:-} ]]; then
    mount="sudo apt-get install --quiet --yes nfs-common && sudo mkdir -p /mnt/lagseg &&
        { mountpoint -q /mnt/lagseg || sudo mount -t nfs $(printf '%q' "$SHARE") /mnt/lagseg; }"
fi
# The images of TPU VMs have an older Python than we need; uv fetches one.
setup="mkdir -p lagseg_jax && tar -xzf lagseg_jax.tar.gz -C lagseg_jax && cd lagseg_jax &&
    python3 -m pip install --quiet --user uv &&
    { [ -x .venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 .venv; } &&
    python3 -m uv pip install --quiet '.[tpu]'"
train=".venv/bin/python -m lagseg_jax.main $(printf '%q ' "$@")"
gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all \
    --command="$mount && $setup && $train"
