#!/usr/bin/env bash
# A real Slurm of five virtual nodes on this machine, for tests.
#
#   tests/slurm/cluster.sh FOLDER COMMAND...   starts munge, a controller, five nodes and, where
#                                              slurmdbd and MariaDB are installed, accounting; runs
#                                              COMMAND with SLURM_CONF set, and ends all of it
#
# Daemons, sockets and ports are its own, so that it disturbs neither a Slurm of this machine nor
# another test; their logs are in FOLDER/log. PRETENDED_NODES=N adds a partition `gpus` of the last
# node and N further ones with 8 GPUs each, which are down: their jobs stay queued. COMMAND finds NO_ACCOUNTING set to the reason where
# there is no sacct. Exit 77: nothing was started here, with the reason.
# shellcheck disable=SC1091
set -u
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

# What belongs to the cluster has its SLURM_CONF in the environment: daemons, steps and ranks.
members() { env -u SLURM_CONF grep -lzsxF "SLURM_CONF=$1/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3; }
end_cluster() {
  local members
  for _ in $(seq 100); do
    members=$(members "$1")
    [[ -n $members ]] || break
    # shellcheck disable=SC2086  # one word a process
    kill -KILL $members 2>/dev/null
    sleep 0.1
  done
  rm -rf "$1"
}
if [[ $1 == --end-after ]]; then  # the watcher: where this script itself was killed
  tail --pid="$2" -f /dev/null
  end_cluster "$3"
  exit
fi

skip() {
  echo "skipped: $*"
  exit 77
}
fail() {
  echo "FAILED: $*"
  exit 1
}
[[ $(id -u) == 0 ]] || skip "a test cluster of Slurm needs root"
for program in slurmctld slurmd munged sbatch; do
  command -v $program >/dev/null || skip "$program is not installed (slurm-wlm, munge: scripts/bootstrap.sh test)"
done

folder=$1
shift
rm -rf "$folder"
mkdir -p "$folder/log"
folder=$(cd "$folder" && pwd)
run=$(mktemp -d /tmp/nereus-slurm.XXXXXX)  # short: sockets' paths have 107 characters at most
(setsid "$here/cluster.sh" --end-after $$ "$run" </dev/null >/dev/null 2>&1 &)
export SLURM_CONF=$run/slurm.conf
trap 'end_cluster "$run"' EXIT
trap 'exit 143' TERM INT HUP

# Waits until a command succeeds, while the last daemon lives: seconds, then the command.
wait_for() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) && kill -0 "$daemon" 2>/dev/null || return 1
    sleep 0.1
  done
}
# A daemon as a job of this shell: its log's name, then its command.
start() {
  local name=$1
  shift
  "$@" </dev/null >"$folder/log/$name.out" 2>&1 &
  daemon=$!
  disown  # not worth a line when it ends
}
said() { tail -n 2 "$folder/log/$1.out" | tr '\n' ' '; }

# Ports that nobody listens at, below those that the system gives to connections.
port=
for _ in $(seq 50); do
  port=$((20000 + RANDOM % 12000))
  for ((p = port; p < port + 7; ++p)); do
    (: >"/dev/tcp/127.0.0.1/$p") 2>/dev/null && continue 2
  done
  break
done

(umask 077 && head -c 1024 /dev/urandom >"$run/munge.key")
start munge munged --foreground --force --key-file="$run/munge.key" --socket="$run/munge" \
  --pid-file="$run/munge.pid" --log-file="$folder/log/munge.log" --seed-file="$run/munge.seed"
wait_for 120 munge -n -S "$run/munge" || fail "munged does not start: $(said munge)"

# The first node (Slurm sorts them by name) is one that the ranks can connect to by its name.
host=$(hostname -s)
nodes=("$host" zz1 zz2 zz3 zz4)
cat >"$SLURM_CONF" <<EOF
ClusterName=nereus
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$run/munge
SlurmctldPort=$port
FirstJobId=$((1000 + RANDOM % 9000))
StateSaveLocation=$run/state
SlurmdSpoolDir=$run/%n
TmpFS=$run/tmp_%n
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
SlurmdDebug=verbose
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
SchedulerParameters=batch_sched_delay=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=300
KillWait=20
PropagatePrioProcess=1
$(for i in "${!nodes[@]}"; do
  echo "NodeName=${nodes[i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + i)) CPUs=2 RealMemory=1000 State=UNKNOWN"
done)
PartitionName=main Nodes=$(IFS=, && echo "${nodes[*]}") Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
EOF
if [[ -n ${PRETENDED_NODES:-} ]]; then
  cat >>"$SLURM_CONF" <<EOF
GresTypes=gpu
NodeName=gpu[001-$PRETENDED_NODES] NodeHostname=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000 Gres=gpu:8 State=DOWN
PartitionName=gpus Nodes=${nodes[-1]},gpu[001-$PRETENDED_NODES] MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
EOF
fi
echo CgroupPlugin=cgroup/v1 >"$run/cgroup.conf"
mkdir -p "$run/state" "${nodes[@]/#/$run/}" "${nodes[@]/#/$run/tmp_}"
. "$here/accounting.sh"
start_accounting $((port + 6))
start slurmctld slurmctld -D
wait_for 120 scontrol ping || fail "slurmctld does not start: $(said slurmctld)"
for node in "${nodes[@]}"; do
  VIRTUAL_NODE=$node start "$node" slurmd -D -N "$node"
done
all_idle() { [[ $(sinfo -h -p main -N -o %T | sort | uniq -c | tr -d ' ') == "${#nodes[@]}idle" ]]; }
wait_for 180 all_idle || fail "the nodes do not come up: $(sinfo -N -o '%N %T %E'; said "$host"; said slurmctld)"
echo "Slurm of ${#nodes[@]} virtual nodes: up after $SECONDS s${NO_ACCOUNTING:+, without accounting: $NO_ACCOUNTING}"

"$@" <&0 &  # waited for, so that a signal is acted upon at once
wait $!
