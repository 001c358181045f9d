#!/usr/bin/env bash
# A Slurm cluster of this machine alone, in a folder of its own: munged, slurmctld and slurmd,
# without systemd and without touching /etc. Debian: apt-get install slurm-wlm munge.
#
#     tests/launch/slurm/cluster.sh start FOLDER     # then: export SLURM_CONF=FOLDER/slurm.conf
#     tests/launch/slurm/cluster.sh stop FOLDER
#
# Two partitions over the same two cores: `low`, the default, and `high`, whose jobs preempt those of
# `low`. The preempted get 120 s between SIGTERM and the end, and are queued again. There are two
# pretended GPUs, so that `--gpus-per-node` of launch/slurm.sbatch can be asked for as it stands.
set -euo pipefail

action=${1:?start or stop} folder=$(realpath -m "${2:?folder of the cluster}")
# Debian has the daemons there, which is not on every user's path.
PATH=$PATH:/usr/sbin
unset SLURM_CONF

free_ports() {
  python3 - <<'END'
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("", 0))
print(*(each.getsockname()[1] for each in sockets))
END
}

write_config() {
  local host ports
  host=$(hostname -s)
  read -r -a ports < <(free_ports)
  touch "$folder/gpu0" "$folder/gpu1"
  cat > "$folder/gres.conf" <<END
Name=gpu File=$folder/gpu[0-1]
END
  cat > "$folder/slurm.conf" <<END
ClusterName=alone
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No cgroups, no accounting: what every machine can do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=5,sched_interval=5
KillWait=120
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=120
PartitionName=high Nodes=$host MaxTime=INFINITE PriorityTier=2
END
}

wait_until_idle() {
  local attempt
  for attempt in $(seq 60); do
    if [[ $(sinfo --noheader --format=%T --partition=low 2>/dev/null) == idle ]]; then return; fi
    sleep 1
  done
  echo "error: no idle node after $attempt s; see $folder/slurmctld.log and slurmd.log" >&2
  return 1
}

case $action in
  start)
    mkdir -p "$folder/state" "$folder/spool"
    write_config
    (umask 077; head -c 1024 /dev/urandom > "$folder/munge.key")
    # --force: the folder may be one that only its owner can enter; nobody else has to.
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
      --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
      --seed-file="$folder/munged.seed"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c
    slurmd
    wait_until_idle
    ;;
  stop)
    # Jobs would outlive the daemons.
    export SLURM_CONF=$folder/slurm.conf
    if [[ -s $folder/slurmctld.pid ]]; then
      scancel --user="$(id -un)" --state=PENDING || true
      scancel --full --signal=KILL --user="$(id -un)" || true
      for _ in $(seq 150); do  # longer than KillWait
        if [[ -z $(squeue --noheader) ]]; then break; fi
        sleep 1
      done
    fi
    for daemon in slurmd slurmctld munged; do
      if [[ -s $folder/$daemon.pid ]]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
    done
    ;;
  *)
    echo "error: $action; allowed: start, stop" >&2
    exit 2
    ;;
esac
