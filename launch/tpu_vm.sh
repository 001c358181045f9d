#!/usr/bin/env bash
# A training job on all workers of a Cloud TPU VM (a pod slice), started from elsewhere:
#
#     launch/tpu_vm.sh TPU_NAME ZONE --config=configs/demo.py --workdir=/shared/runs/demo
#
# What stands after the zone goes to bokeh_jax.training.train. The repository lies in ~/bokeh_jax on
# every worker, with its .venv (docs/operations.md says how it gets there), data and workdir where
# all workers see them. JAX asks the metadata server who the workers are. Keep this shell alive
# (tmux): with the connection, the job would be lost up to its last checkpoint.
set -uo pipefail

if [[ $# -lt 4 ]]; then
  echo "error: $# arguments; allowed: TPU_NAME ZONE and what the training gets" >&2
  exit 2
fi
name=$1 zone=$2
shift 2

EXIT_PREEMPTED=75  # bokeh_jax.training.preemption: the state is saved, the same command goes on.
REPOSITORY=${REPOSITORY:-bokeh_jax}  # from the home folder of every worker
READY_SECONDS=${READY_SECONDS:-3600}

# Every line is marked with its worker (host names end in -w-NUMBER); the exit code is Python's.
worker_command="set -o pipefail; cd $(printf %q "$REPOSITORY") && { .venv/bin/python -m \
bokeh_jax.training.train $(printf '%q ' "$@") 2>&1; } | sed -u \"s/^/\${HOSTNAME##*-w-}: /\""

wait_until_ready() {
  local state='' deadline=$((SECONDS + READY_SECONDS))
  while [[ $state != READY ]]; do
    state=$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)')
    case $state in
      READY) return ;;
      PREEMPTED | TERMINATED | DELETING | '')
        echo "$name is ${state:-not there}: create it again, then give the same command" >&2
        return 1
        ;;
    esac
    if ((SECONDS > deadline)); then
      echo "$name is still $state after $READY_SECONDS s" >&2
      return 1
    fi
    sleep 10
  done
}

while true; do
  # The exit code is that of the first worker, in their order, whose code is not 0.
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="bash -c $(printf %q "$worker_command")"
  code=$?
  echo "$(date --iso-8601=seconds) $name: exit code $code"
  if [[ $code -ne $EXIT_PREEMPTED ]]; then exit "$code"; fi
  wait_until_ready || exit "$EXIT_PREEMPTED"
done
