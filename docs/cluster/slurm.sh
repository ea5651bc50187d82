#!/usr/bin/env bash
# sbatch docs/cluster/slurm.sh RECIPE RUN_DIR [key=value ...]      (in the repository's root, on a shared file system)
#
# Ray on every node of the allocation, and the recipe trained from the first. A run directory that has a run is
# resumed.
#SBATCH --job-name=depo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
set -euo pipefail

recipe=$1
run_dir=$2
shift 2

# Ports of this job's own, in case another Ray is on the nodes.
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN
export RAY_TMPDIR="/tmp/ray_$SLURM_JOB_ID"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{print $1}')
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats)

srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
    ray start --head --block --node-ip-address="$address" --port="$port" "${resources[@]}" &
if ((SLURM_NNODES > 1)); then
    sleep 20 # until the head answers
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$first" --overlap \
        ray start --block --address="$address:$port" "${resources[@]}" &
fi

export RAY_ADDRESS="$address:$port"
srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap python - <<'PYTHON'
import os
import time

import ray

wanted, deadline = int(os.environ["SLURM_NNODES"]), time.monotonic() + 300
while True:
    try:
        ray.init(logging_level="ERROR")
        break
    except Exception:
        if time.monotonic() > deadline:
            raise
        time.sleep(5)
while sum(node["Alive"] for node in ray.nodes()) < wanted:
    if time.monotonic() > deadline:
        raise SystemExit(f"of {wanted} nodes, these have joined: {[node['NodeName'] for node in ray.nodes()]}")
    time.sleep(1)
PYTHON

what=("$recipe")
if [ -f "$run_dir/recipe.yaml" ]; then
    what=(--resume)
fi
# In the background, so that the trap below runs at once: depo ends by SIGTERM with its last checkpoint safe.
srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
    python -m depo train "${what[@]}" "$@" --run-dir "$run_dir" &
training=$!
trap 'kill -TERM "$training"' TERM
status=0
wait "$training" || status=$?
if kill -0 "$training" 2> /dev/null; then # the trap interrupted the wait
    status=0
    wait "$training" || status=$?
fi
exit "$status" # Slurm ends the Ray processes with the job
