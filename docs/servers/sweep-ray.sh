#!/bin/bash
# A sweep over several machines that share this checkout and the folder of runs. On each machine once:
#   head:    ray start --head --port=6379
#   others:  ray start --address=<head>:6379
# then here:  docs/servers/sweep-ray.sh <head>:6379
set -euo pipefail
address="${1:?address of the cluster, host:port}"
mkdir -p build
exec .venv/bin/papermill notebooks/sweep.ipynb build/sweep-ray.ipynb --log-output --no-progress-bar \
    -p backend ray -p address "$address" -p gpus "${GPUS:-1}" -p methods "${METHODS:-dha,ista}" -p seeds "${SEEDS:-5}" -p retries 1
