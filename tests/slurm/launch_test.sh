#!/usr/bin/env bash
# launch.sh on a real Slurm: two nodes with two ranks each train a small model.
#   tests/slurm/launch_test.sh PROGRAM FOLDER      inside tests/slurm/cluster.sh
set -u
program=$1 folder=$2
repository=$(cd "$(dirname "$0")/../.." && pwd)
failures=0
expect() {  # what, then a command
  local what=$1
  shift
  if ! "$@" >/dev/null 2>&1; then
    echo "FAILED: $what"
    failures=$((failures + 1))
  fi
}
# A job's state, when it has ended.
ended() {
  local state
  for _ in $(seq 120); do
    state=$(scontrol show job -o "$1" | grep -oE 'JobState=[A-Z_]+')
    case $state in JobState=COMPLETED | JobState=FAILED | JobState=CANCELLED | JobState=TIMEOUT | JobState=NODE_FAIL)
      echo "${state#*=}"
      return
      ;;
    esac
    sleep 0.5
  done
  echo "still $state"
}

export GPU_TYPE=h100 JOB_TOTAL_GPUS=4 LLMB_INSTALL=$folder/llmb NEREUS_BIN=$program
export PIPELINE_PARALLEL_DEGREE=2 EXPERT_PARALLEL_DEGREE=2 PIPELINE_PARALLEL_SCHEDULE=1F1B
export LOCAL_BATCH_SIZE=4 SEQ_LEN=64 TRAINING_STEPS=4 ACTIVATION_CHECKPOINT_MODE=full
export NEREUS_PRESET=original
# The virtual nodes' names are no hosts' names.
export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 20000))
small=(--model_overrides.{vocab_size=64,dim=32,inter_dim=48,moe_inter_dim=16,n_layers=4,n_dense_layers=1}
  --model_overrides.{n_heads=2,num_experts=4,top_k=2,q_lora_rank=16,kv_lora_rank=16}
  --model_overrides.{qk_nope_head_dim=8,qk_rope_head_dim=8,v_head_dim=8,attn_mask_type=causal}
  --training.dataset=random --training.mixed_precision_param=float32 --metrics.log_freq=1
  --device.kind=cpu --cpu.threads=1)
cd "$repository" || exit 1

submit() { sbatch --parsable -N 2 --ntasks-per-node=2 --output="$1/slurm-%j.out" recipes/deepseek_v3/launch.sh "${small[@]}" "${@:2}"; }

# 1. A whole run.
export LLMB_EXPERIMENT_DIR=$folder/runs/1
mkdir -p "$LLMB_EXPERIMENT_DIR"
begin=$(date +%s%N)
job=$(submit "$LLMB_EXPERIMENT_DIR")
state=$(ended "$job")
[[ $state == COMPLETED ]] || {
  echo "FAILED: job $job is $state"
  tail -n 20 "$LLMB_EXPERIMENT_DIR"/*.out "$LLMB_EXPERIMENT_DIR"/*.err
  exit 1
}
echo "from sbatch to the end of the run: $((($(date +%s%N) - begin) / 1000000)) ms"
log=$LLMB_EXPERIMENT_DIR/log-torchtitan_deepseek-v3-torchtitan_4gpus_${job}_0.out
expect "the log has step 4 of rank 0" grep -q '^\[rank0\]:.*step:  4 ' "$log"
expect "no other rank writes steps" bash -c "! grep -q '^\[rank[123]\]:' '$log'"
expect "four ranks on two nodes" grep -q 'Layout: pp 2 x dp_shard 2, ep 2' "$log"
for below in profile_trace tb checkpoint comm_traces; do
  expect "outputs/$below is there" test -d "$LLMB_EXPERIMENT_DIR/outputs/$below"
done
expect "metrics.jsonl has four steps" test "$(wc -l <"$LLMB_EXPERIMENT_DIR/outputs/metrics.jsonl")" = 4

# 2. LOG_RANK chooses who writes.
export LLMB_EXPERIMENT_DIR=$folder/runs/2
mkdir -p "$LLMB_EXPERIMENT_DIR"
job=$(LOG_RANK=3 submit "$LLMB_EXPERIMENT_DIR")
expect "LOG_RANK=3: completed" test "$(ended "$job")" = COMPLETED
log=$LLMB_EXPERIMENT_DIR/log-torchtitan_deepseek-v3-torchtitan_4gpus_${job}_0.out
expect "LOG_RANK=3: rank 3 writes" grep -q '^\[rank3\]:.*step:  4 .*loss' "$log"
expect "LOG_RANK=3: rank 0 does not" bash -c "! grep -q '^\[rank0\]:' '$log'"

# 3. scancel: SIGTERM, the step is finished.
export LLMB_EXPERIMENT_DIR=$folder/runs/3 TRAINING_STEPS=1000000
mkdir -p "$LLMB_EXPERIMENT_DIR"
job=$(submit "$LLMB_EXPERIMENT_DIR" --metrics.log_freq=100)
log=$LLMB_EXPERIMENT_DIR/log-torchtitan_deepseek-v3-torchtitan_4gpus_${job}_0.out
for _ in $(seq 60); do
  grep -q 'step:  1 ' "$log" 2>/dev/null && break
  sleep 0.5
done
scancel "$job"
expect "scancel: cancelled" test "$(ended "$job")" = CANCELLED
sleep 2
expect "scancel: the ranks stopped after a step" grep -q 'SIGTERM received: stopped after step' "$log"

# 4. What Slurm refuses.
expect "an invalid partition is refused by sbatch" bash -c \
  "! sbatch -p none recipes/deepseek_v3/launch.sh && sbatch -p none recipes/deepseek_v3/launch.sh 2>&1 | grep -q 'invalid partition'"

# 5. What the recipe refuses, in the job's own log.
export LLMB_EXPERIMENT_DIR=$folder/runs/5 TRAINING_STEPS=4
mkdir -p "$LLMB_EXPERIMENT_DIR"
job=$(EXPERT_PARALLEL_DEGREE=3 submit "$LLMB_EXPERIMENT_DIR")
expect "a degree that does not fit: failed" test "$(ended "$job")" = FAILED
expect "a degree that does not fit: says so" grep -q 'EXPERT_PARALLEL_DEGREE = 3 does not divide' \
  "$LLMB_EXPERIMENT_DIR/slurm-$job.out"

[[ $failures == 0 ]] && echo "launch.sh on Slurm: all passed"
exit $((failures > 0))
