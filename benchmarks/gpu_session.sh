#!/usr/bin/env bash
# What only a GPU can tell, unattended, within 12 minutes: its table is printed last, and
# OUTPUT/session.json is written after every part.
#
#   bash benchmarks/gpu_session.sh --output=session --peer_python=torch/bin/python
#
# PYTHON is the interpreter that has jax. Options: python -m benchmarks.session --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python}" -m benchmarks.session "$@"
