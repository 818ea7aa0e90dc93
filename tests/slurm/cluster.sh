#!/usr/bin/env bash
# A real Slurm of two virtual nodes on this machine, for tests.
#
#   tests/slurm/cluster.sh FOLDER COMMAND...   starts munge (unless it runs), a controller and two
#                                              nodes with everything under FOLDER, runs COMMAND with
#                                              SLURM_CONF set, and stops what it started
#
# Exit 77: it cannot be started here, with the reason. Needs root, slurm-wlm and munge.
set -u
folder=$1
shift

skip() {
  echo "skipped: $*"
  exit 77
}
[[ $(id -u) == 0 ]] || skip "a test cluster of Slurm needs root"
for program in slurmctld slurmd munged sbatch; do
  command -v $program >/dev/null || [[ -x /usr/sbin/$program ]] || skip "$program is not installed (slurm-wlm, munge)"
done
PATH=$PATH:/usr/sbin

rm -rf "$folder"
mkdir -p "$folder"/{state,n0,n1,tmp_n0,tmp_n1,log}
own_munge=
daemons=()
stop() {
  ((${#daemons[@]})) && kill "${daemons[@]}" 2>/dev/null
  [[ -n $own_munge ]] && kill "$(cat /run/munge/munged.pid 2>/dev/null)" 2>/dev/null
  wait 2>/dev/null
  return 0
}
# A daemon in the foreground of a background job, so that it is known by its process.
start() {
  "$@" >/dev/null 2>&1 &
  daemons+=($!)
  sleep 0.3
  kill -0 $! 2>/dev/null || skip "$1 does not start: $(tail -1 "$folder"/log/*.log)"
}
trap stop EXIT
trap 'exit 143' TERM INT

if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  mkdir -p /run/munge /var/log/munge /var/lib/munge
  [[ -s /etc/munge/munge.key ]] || (umask 377 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
  chown -R munge:munge /run/munge /etc/munge /var/lib/munge /var/log/munge
  runuser -u munge -- /usr/sbin/munged --force || skip "munged does not start"
  own_munge=1
fi

port=$((20000 + RANDOM % 20000))
host=$(hostname -s)
cat >"$folder/slurm.conf" <<EOF
ClusterName=dev
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
SlurmctldPort=$port
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
TmpFS=$folder/tmp_%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=60
KillWait=5
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
EOF
export SLURM_CONF=$folder/slurm.conf
start slurmctld -D
sleep 1
start slurmd -D -N n0
start slurmd -D -N n1
for _ in $(seq 30); do
  [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
  sleep 0.5
done
"$@"
