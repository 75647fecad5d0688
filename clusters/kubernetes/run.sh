#!/usr/bin/env bash
# Embed all shards of a planned workspace, then verify, neighbors and fit.
#
#   clusters/kubernetes/run.sh SHARDS PARALLEL     # as `python cli.py status` counts them, and GPUs
#
# kubectl's own settings say which cluster and namespace. Run it again after anything went wrong:
# it ends what runs and begins anew, with what is missing.
set -euo pipefail
if (($# != 2)); then
    sed -n '2,7s/^# \?//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")"

wait_for() { # job
    local conditions
    until conditions=$(kubectl get job "$1" -o "jsonpath={range .status.conditions[?(@.status=='True')]}{.type} {end}") &&
        [[ $conditions == *Complete* || $conditions == *Failed* ]]; do
        kubectl get job "$1" --no-headers || true # the server may be away for a moment
        sleep 20
    done
    if [[ $conditions == *Failed* ]]; then
        echo "$1 failed: kubectl describe job $1; kubectl logs -l job-name=$1 --tail=3 --prefix" >&2
        exit 1
    fi
}

kubectl apply -f workspace.yaml
kubectl delete job shelfwise-embed shelfwise-finish --ignore-not-found # a Job cannot be changed
kubectl patch --local -f embed.yaml -o yaml \
    -p "{\"spec\": {\"completions\": $1, \"parallelism\": $2}}" | kubectl apply -f -
wait_for shelfwise-embed
kubectl apply -f finish.yaml
wait_for shelfwise-finish
