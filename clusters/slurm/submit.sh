#!/usr/bin/env bash
# Submit what is missing: an array of shards, then verify, neighbors and fit, each after the one
# before. Run it again after anything went wrong and no job of it is left (squeue): only what is
# missing is submitted.
#
#   export SHELFWISE_WORKSPACE=/shared/workspace      # planned, and on a file system of all nodes
#   SBATCH_PARTITION=gpu clusters/slurm/submit.sh --approach 5
#
# Arguments go to fit. sbatch itself reads SBATCH_PARTITION, SBATCH_ACCOUNT and the like. Further:
#   GPU_JOB       resources of embed and fit   [--gpus-per-node=1 --cpus-per-task=8 --mem=32G --time=4:00:00]
#   CPU_JOB       resources of verify and neighbors   [--cpus-per-task=8 --mem=32G --time=4:00:00]
#   MAX_PARALLEL  shards of an array at a time   [32]
#   PYTHON        with the requirements installed, on every node   [.venv/bin/python]
set -euo pipefail
cd "$(dirname "$0")/../.."

export PYTHON=${PYTHON:-.venv/bin/python}
read -r -a gpu_job <<<"${GPU_JOB:---gpus-per-node=1 --cpus-per-task=8 --mem=32G --time=4:00:00}"
read -r -a cpu_job <<<"${CPU_JOB:---cpus-per-task=8 --mem=32G --time=4:00:00}"
fit=("$@")
((${#fit[@]})) || fit=(--approach 5)

submit() { # name, resources and arguments of sbatch, --, arguments of cli.py
    local name=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    sbatch --parsable --job-name="$name" "${options[@]}" clusters/slurm/task.sbatch "$@" | cut -d';' -f1
}

previous=()
missing=$("$PYTHON" cli.py status --missing)
labels=$("$PYTHON" cli.py status --json | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["labels"])')
# Shard 0 brings the labels with it; where it is done they may have changed since.
if [[ $labels != "done" && ! $missing =~ ^0([,-]|$) ]]; then
    previous+=("$(submit labels "${gpu_job[@]}" -- embed --labels)")
    printf '%-10s %s\n' labels "${previous[0]}"
fi
array_size=$(scontrol show config | awk '$1 == "MaxArraySize" {print $3}')
lines=$("$PYTHON" cli.py status --missing --array-size "$array_size")
while read -r offset indices; do
    [[ -n $offset ]] || continue # nothing is missing
    job=$(SHARD_OFFSET=$offset submit embed "${gpu_job[@]}" --array="$indices%${MAX_PARALLEL:-32}" -- embed)
    printf '%-10s %s  shards %s + %s\n' embed "$job" "$offset" "$indices"
    previous+=("$job")
done <<<"$lines"

after() { # the jobs before, as a dependency
    local IFS=:
    echo "--dependency=afterok:$*"
}

for stage in verify neighbors fit; do
    resources=("${cpu_job[@]}")
    arguments=("$stage")
    if [[ $stage == fit ]]; then
        resources=("${gpu_job[@]}")
        arguments+=("${fit[@]}" --resume)
    fi
    if ((${#previous[@]})); then
        resources+=("$(after "${previous[@]}")" --kill-on-invalid-dep=yes)
    fi
    job=$(submit "$stage" "${resources[@]}" -- "${arguments[@]}")
    printf '%-10s %s\n' "$stage" "$job"
    previous=("$job")
done
