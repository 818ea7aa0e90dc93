#!/usr/bin/env bash
# The recipe's batch jobs on a real Slurm: each job is two nodes with two ranks each that train a
# small model.
#
#   tests/slurm/suite.sh PROGRAM FOLDER [CASE...]   inside tests/slurm/cluster.sh; all cases, or
#                                                   those whose names are given
# shellcheck disable=SC1091,SC2034,SC2317  # the cases use what is defined here
set -u
program=$1 folder=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
mkdir -p "$folder/runs"
folder=$(cd "$folder" && pwd)
cd "$repository" || exit 1

export GPU_TYPE=h100 JOB_TOTAL_GPUS=4 LLMB_INSTALL=$folder/llmb NEREUS_BIN=$program NEREUS_PRESET=original
export PIPELINE_PARALLEL_DEGREE=2 EXPERT_PARALLEL_DEGREE=2 PIPELINE_PARALLEL_SCHEDULE=1F1B
export LOCAL_BATCH_SIZE=4 SEQ_LEN=64 TRAINING_STEPS=4 ACTIVATION_CHECKPOINT_MODE=full
small=(--model_overrides.{vocab_size=64,dim=32,inter_dim=48,moe_inter_dim=16,n_layers=4,n_dense_layers=1}
  --model_overrides.{n_heads=2,num_experts=4,top_k=2,q_lora_rank=16,kv_lora_rank=16}
  --model_overrides.{qk_nope_head_dim=8,qk_rope_head_dim=8,v_head_dim=8,attn_mask_type=causal}
  --training.dataset=random --training.mixed_precision_param=float32 --metrics.log_freq=1
  --device.kind=cpu --cpu.threads=1)
first_node=$(hostname -s)
getent hosts "$first_node" >/dev/null || export MASTER_ADDR=127.0.0.1

# --- Checks.
checks=0 failures=0 case_name="" job=""
check() {  # what must be, then a command
  local what=$1
  shift
  checks=$((checks + 1))
  "$@" >/dev/null 2>&1 && return
  failures=$((failures + 1))
  echo "FAILED: $case_name: $what"
  echo "  $*"
  [[ -z $job ]] || show_job | sed 's/^/  | /'
}
show_job() {
  scontrol show job -o "$job" | grep -oE '(JobState|Reason|ExitCode|Restarts|NodeList)=[^ ]+' | xargs
  echo "ranks ended: $(rank_ends)"
  tail -n 6 "$job_folder"/*.{out,err} 2>/dev/null | cut -c 1-300
}
contains() { grep -qE -- "$2" "$1"; }  # file, pattern
lacks() { [[ -e $1 ]] && ! grep -qE -- "$2" "$1"; }
# What must come is waited for long: how soon depends on what else this machine does. What must come
# soon has `soon`, a stated time or ten times what a job of nothing takes now, whichever is more.
readonly patience=180
soon() { echo $(($1 > 10 * empty_job_ms ? $1 : 10 * empty_job_ms)); }  # milliseconds
wait_for() {  # seconds, then a command
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || return 1
    sleep 0.05
  done
}

# --- Jobs. `job` is the last one that was submitted.
new_folder() {
  job="" job_folder=$folder/runs/$1
  export LLMB_EXPERIMENT_DIR=$job_folder
  mkdir -p "$job_folder"
}
# The checks are of this job from now on: its case's folder, its id.
look_at() {
  job_folder=$folder/runs/$1 job=$2
  batch_log=$job_folder/slurm-$job.out
  log=$(log_of "$job" 0)
  errors=${log%.out}.err
}
# Submits launch.sh: sbatch's options, "--", the program's.
submit() {
  local options=()
  submit_began=$(date +%s%N)
  while [[ $# -gt 0 && $1 != -- ]]; do options+=("$1") && shift; done
  job=$(nice -n "${niceness:-0}" sbatch --parsable -N 2 --ntasks-per-node=2 -w "$first_node,zz1" "--output=$job_folder/slurm-%j.out" \
    "${options[@]}" recipes/deepseek_v3/launch.sh "${small[@]}" "${@:2}")
  look_at "${job_folder##*/}" "$job"
}
log_of() { echo "$job_folder/log-torchtitan_deepseek-v3-torchtitan_${JOB_TOTAL_GPUS}gpus_$1_$2.out"; }
of_job() { scontrol show job -o "$job" | grep -oE "(^| )$1=[^ ]*" | cut -d= -f2-; }
is() { [[ $(of_job "$1") == "$2" ]]; }  # key, value
has_ended() { [[ $(of_job JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
ends() { wait_for "$patience" has_ended && is JobState "$1"; }  # state
# Milliseconds from the last sbatch to the time of the log's step 1, for `first_steps`.
note_first_step() {
  local line
  line=$(grep -m 1 'step:  1 ' "$log") && first_step_ms+=($((($(date -d "$(sed -E 's/.*\[titan\] ([^,]*),([0-9]*) .*/\1.\2/' <<<"$line")" +%s%N) - submit_began) / 1000000)))
}
first_step_ms=()
has_step() { contains "${1:-$log}" 'step:  1 '; }
has_step_or_end() { has_step "$@" || has_ended; }
trains() { wait_for "$patience" has_step_or_end "$@" && has_step "$@"; }
# What sacct says of a job or a step: its state and, if asked, its exit code.
is_accounted() { sacct -D -n -P -j "$1" -o jobid,state,exitcode 2>/dev/null | grep -qE "^$1\|$2.*\|${3:-.*}\$"; }
accounted() {
  [[ -n $NO_ACCOUNTING ]] || check "sacct has ${*}" wait_for "$patience" is_accounted "$@"
}
# The processes of the job on a node, as SLURM_PROCID=N chooses or all.
ranks_on() {
  grep -lzsx "SLURM_JOB_ID=$job" /proc/[0-9]*/environ | xargs -r grep -lzsx "SLURMD_NODENAME=$1" |
    xargs -r grep -lzsxE "SLURM_PROCID=${2:-[0-9]+}" | cut -d/ -f3 |
    while read -r pid; do [[ $(cat "/proc/$pid/comm" 2>/dev/null) == nereus ]] && echo "$pid"; done
}

# How each of the job's ranks ended, as the daemons of its step wrote down: "0:72 1:72 2:signal9". A
# rank whose daemon was killed has no entry; one that ran again has two.
node_logs=$(sed -n 's/^SlurmdLogFile=//p' "$SLURM_CONF")
rank_ends() {
  sed -nE "s/.*\[$job\.0\] task ([0-9]+) \([0-9]+\) exited(\. Killed by (signal) | with exit code )([0-9]+)\.\$/\1:\3\4/p" \
    "${node_logs%/*}"/*.log | sort | xargs
}
ranks_ended() { [[ $(rank_ends) == "$*" ]]; }
ranks_end() { wait_for "$patience" ranks_ended "$@"; }

. "$here/launch_cases.sh"
. "$here/end_cases.sh"
. "$here/submit_cases.sh"
. "$here/seed_cases.sh"
. "$here/resume_cases.sh"

begin=$(date +%s%N)
sbatch -Q --wait -N 2 --ntasks-per-node=2 -w "$first_node,zz1" --output=/dev/null --wrap "srun true"
empty_job_ms=$((($(date +%s%N) - begin) / 1000000))
echo "a job of nothing: $empty_job_ms ms"

# Slurm looks at time limits twice a minute, and gives ranks time to die: those jobs run beside the
# other cases.
all=(limit_begins short_begins step_dies runs default_folder log_rank slurm_params first_steps precedence refused seed submitted cancelled requeued
  goes_on chained slow_writer early_death rank_killed short_goes_on node_down step_is_dead node_dies limit_ends)
for case_name in "${@:-${all[@]}}"; do
  begin=$(date +%s%N) before=$failures job=""
  "$case_name"
  ((failures > before)) || echo "ok: $case_name, $((($(date +%s%N) - begin) / 1000000)) ms"
done
[[ -z $NO_ACCOUNTING ]] || echo "skipped: what sacct says: $NO_ACCOUNTING"
echo "Slurm: $checks checks, $failures failed, $SECONDS s"
exit $((failures > 0))
