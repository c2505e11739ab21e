#!/bin/bash
# Run a job in a Slurm allocation, with a Ray node on each machine:
#
#     sbatch --nodes 4 --gpus-per-node 8 deploy/slurm.sh SPEC [OPTIONS of edict run]
#
# Submit it from an environment whose PATH has `edict` and `ray`, in a folder that all nodes share. The first node drives
# the job and has workers too. Five minutes before the time limit the run stops, and Slurm queues the job again: it then
# does the missing units. `scancel` stops it for good.
#
#SBATCH --job-name=edict
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300

set -euo pipefail

if ((SLURM_JOB_NUM_NODES > 1)); then
    # All users of the cluster can reach Ray's ports. Ray accepts only processes that have the token.
    export RAY_AUTH_MODE=token
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_TOKEN

    # A node's own name may stand for 127.0.1.1, which no other node reaches. --all-ip-addresses leaves out loopback.
    read -r address _ < <(hostname --all-ip-addresses)
    address=${HEAD_ADDRESS:-$address}
    trap 'ray stop --grace-period 5 >/dev/null || true' EXIT
    ray start --head --node-ip-address="$address" --port=6379 --num-cpus="$SLURM_CPUS_ON_NODE" --include-dashboard=false
    export RAY_ADDRESS=$address:6379
    # shellcheck disable=SC2016  # each node expands SLURM_CPUS_ON_NODE itself
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$SLURMD_NODENAME" \
        --overlap --cpu-bind=none --no-kill --wait=0 \
        bash -c 'exec ray start --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_ON_NODE" --block' &
    python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time
import ray

ray.init(logging_level="ERROR")
deadline = time.monotonic() + 600
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("error: not all nodes started Ray within ten minutes: see the output of `ray start` above")
    time.sleep(1)
PYTHON
fi

# USR1 comes before the time limit. TERM comes from `scancel`, and from preemption, after which Slurm itself queues the
# job again.
requeue=false
trap 'requeue=true; kill -TERM $!' USR1
trap 'kill -TERM $!' TERM
edict run "$@" &
# A signal ends `wait`, not the run: wait until the process has ended.
status=0
while true; do
    wait $! && status=0 || status=$?
    kill -0 $! 2>/dev/null || break
done

if $requeue && ((status == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
