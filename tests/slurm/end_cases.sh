# Cases of suite.sh: how jobs end that do not complete.
# shellcheck shell=bash disable=SC2086,SC2154

all_stopped="0:143 1:143 2:143 3:143"  # the exit codes of docs/operations.md

# sbatch's options; "--" and the program's may follow.
endless() {
  local options=()
  while [[ $# -gt 0 && $1 != -- ]]; do options+=("$1") && shift; done
  TRAINING_STEPS=1000000 submit "${options[@]}" -- --metrics.log_freq=1000000 "${@:2}"
}

cancelled() {
  new_folder scancel
  endless
  check "the job trains" trains
  scancel "$job"
  check "the job is cancelled" ends CANCELLED
  check "the ranks finish their step" wait_for $patience contains "$log" '^\[rank0\]:.*SIGTERM received: stopped after step [0-9]+ of 1000000'
  check "their exit code is 143" ranks_end $all_stopped
  accounted "$job" CANCELLED
  accounted "$job.0" FAILED 15:0  # sacct takes 128 off

  new_folder signal
  endless
  check "scancel --signal=TERM: the job trains" trains
  scancel --signal=TERM "$job"
  check "scancel --signal=TERM: the job fails" ends FAILED
  check "scancel --signal=TERM: exit code 143" is ExitCode 143:0
  check "scancel --signal=TERM: every rank's too" ranks_end $all_stopped
  check "scancel --signal=TERM: the ranks finish their step" contains "$log" 'SIGTERM received: stopped after step'
}

pends() { is JobState PENDING && is Restarts 1; }
requeued() {
  new_folder requeue
  endless
  check "the job trains" trains
  scontrol requeue "$job"
  check "it waits for its second attempt" wait_for $patience pends
  check "the first attempt finishes its step" contains "$log" 'SIGTERM received: stopped after step'
  check "its exit code is 143" ranks_end $all_stopped
  scontrol update jobid="$job" StartTime=now+2  # not in two minutes; a second is what Slurm needs
  log=$(log_of "$job" 1)
  check "the second attempt has a log of its own and trains" trains
  check "its errors have a file of their own" test -e "${log%.out}.err"
  scancel "$job"
  check "it can be cancelled" ends CANCELLED
  accounted "$job" REQUEUED
  accounted "$job" CANCELLED
}

rank_killed() {
  new_folder rank_killed
  endless
  check "the job trains" trains
  local begin
  begin=$(date +%s%N)
  kill -KILL "$(ranks_on zz1 3)"
  check "the job fails" ends FAILED
  local end=$((($(date +%s%N) - begin) / 1000000))
  echo "from a rank's death to the job's end: $end ms"
  check "it does within 3 s" test $end -lt "$(soon 3000)"
  check "the log names the rank" contains "$errors" '^error: rank 3 of the world \(host .*, process [0-9]+\) died at step [0-9]+'
  check "srun names its node" contains "$batch_log" 'zz1: task 3: Killed'
  check "the others end with 72" ranks_end 0:72 1:72 2:72 3:signal9
  accounted "$job" FAILED
  accounted "$job.0" FAILED
}

no_rank_runs() { [[ -z $(ranks_on "$first_node")$(ranks_on zz1) ]]; }
node_down() {
  new_folder node_down
  endless --no-requeue
  check "the job trains" trains
  scontrol update nodename=zz1 state=down reason=test
  check "the job ends as NODE_FAIL" ends NODE_FAIL
  check "the batch log names the node" contains "$batch_log" 'Node failure on zz1'
  check "the log says so" contains "$errors" 'DUE TO NODE FAILURE'
  check "no rank stays" wait_for $patience no_rank_runs
  check "the ranks' exit code is 143" ranks_end $all_stopped
  accounted "$job" NODE_FAIL

  new_folder node_down_requeue
  endless --requeue -w "$first_node,zz4"
  check "with --requeue: the job trains" trains
  scontrol update nodename=zz4 state=down reason=test
  check "with --requeue: it waits for its second attempt" wait_for $patience pends
  check "with --requeue: the ranks' exit code is 143" ranks_end $all_stopped
  scancel "$job"
}

# Kills what a node has of the job, its step's daemon and its ranks, or with "all" its own daemon too.
kill_on() {
  local ranks others pid
  mapfile -t ranks < <(ranks_on "$1")
  mapfile -t others < <(
    for pid in "${ranks[@]}"; do awk '/^PPid:/ { print $2 }' "/proc/$pid/status"; done | sort -u
    [[ ${2:-} != all ]] || grep -lzsx "VIRTUAL_NODE=$1" /proc/[0-9]*/environ | cut -d/ -f3
  )
  kill -KILL "${others[@]}" "${ranks[@]}"
}
others_end() {
  local begin end
  begin=$(date +%s%N)
  check "the other node's ranks end with 72" ranks_end 0:72 1:72  # nobody noted how the lost ones did
  end=$((($(date +%s%N) - begin) / 1000000))
  check "they do within 3 s" test $end -lt "$(soon 3000)"
  check "the log names a lost rank" contains "$errors" '^error: rank [23] of the world .* died at step [0-9]+'
}

# The daemon of a step and its ranks go without a word: srun knows nothing of it.
step_dies() {
  new_folder step_dies
  ADDITIONAL_SLURM_PARAMS=wait=1 endless -w "$first_node,zz3"
  dead_job=$job
  check "the job trains" trains
  kill_on zz3
  others_end
}
step_is_dead() {
  look_at step_dies "$dead_job"
  check "the job fails" ends FAILED
  check "srun ends the step after its wait" contains "$batch_log" 'First task exited 1s ago'
  check "its exit code is 72" is ExitCode 72:0
  accounted "$job" FAILED 72:0
}

# The whole node does.
node_dies() {
  new_folder node_dies
  endless --no-requeue -w "$first_node,zz3"
  check "the job trains" trains
  kill_on zz3 all
  others_end
  scontrol update nodename=zz3 state=down reason=test  # what Slurm finds out after SlurmdTimeout
  check "the job ends as NODE_FAIL" ends NODE_FAIL
  check "Slurm's log names the node" contains "$batch_log" 'Node failure on zz3'
  accounted "$job" NODE_FAIL
}

# Jobs at the limit of their time, with the least priority for the processor.
limit_soon() { scontrol update jobid="$job" EndTime="$(date -d '+2 second' +%Y-%m-%dT%H:%M:%S)"; }
limit_begins() {
  new_folder limit
  niceness=15 endless -w "$first_node,zz2" --signal=TERM@0  # at the limit alone
  limit_job=$job
  check "the job trains" trains
  check "its limit can be set" wait_for "$patience" limit_soon  # Slurm refuses a time that is over
  new_folder warned
  niceness=15 endless -w "$first_node,zz2" --time=1 --signal=TERM@40
  warned_job=$job
}
limit_ends() {
  look_at limit "$limit_job"
  check "the job ends as TIMEOUT" ends TIMEOUT
  check "the ranks finish their step" wait_for $patience contains "$log" 'SIGTERM received: stopped after step'
  check "the log says why" contains "$errors" 'DUE TO TIME LIMIT'
  check "the ranks' exit code is 143" ranks_end $all_stopped
  accounted "$job" TIMEOUT
  look_at warned "$warned_job"
  check "--signal=TERM@40: the job ends before its limit" ends FAILED
  check "--signal=TERM@40: exit code 143" is ExitCode 143:0
  check "--signal=TERM@40: every rank's too" ranks_end $all_stopped
  check "--signal=TERM@40: the ranks finish their step" contains "$log" 'SIGTERM received: stopped after step'
  accounted "$job" FAILED 15:0
}
