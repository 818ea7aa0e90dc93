#!/usr/bin/env bash
# nereus setup, and the check of the nodes before a run, on a real Slurm.
#   tests/slurm/setup_test.sh PROGRAM FOLDER      inside tests/slurm/cluster.sh
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
ended() {  # a job's state, when it has ended
  local state
  for _ in $(seq 480); do
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

# 1. Setup takes what Slurm says. Slurm's own file is the judge: a test cluster has one partition, in
# which all nodes are.
of_slurm() { sed -nE "s/^$1=([^ ]+).*/\\1/p" "$SLURM_CONF"; }
name=$(of_slurm ClusterName) partition=$(of_slurm PartitionName) nodes=$(of_slurm NodeName | wc -l)
[[ -n $name && -n $partition && $nodes -gt 0 ]] || {
  echo "FAILED: $SLURM_CONF does not name cluster, partition and nodes"
  exit 1
}
export HOME=$folder/home LLMB_INSTALL=$folder/llmb
mkdir -p "$HOME"
"$program" setup --repo "$repository" --account test --gpu-type h100 --shards none --no-download --yes \
  >"$folder/setup.log" 2>&1 </dev/null || {
  echo "FAILED: setup"
  cat "$folder/setup.log"
  exit 1
}
config=$LLMB_INSTALL/cluster_config.yaml
expect "the partition is Slurm's" test "$(grep -cxF "    partition: \"$partition\"" "$config")" = 2 # gpu, cpu
expect "the cluster's name is Slurm's" grep -qxF "cluster_name: \"$name\"" "$config"
expect "setup shows the partition" grep -qxF "  partition $partition (default): $nodes nodes, no GPU" "$folder/setup.log"
expect "llmb-run is installed" "$LLMB_INSTALL/bin/llmb-run" list
expect "the recipe's page makes llmb-run" env HOME="$folder/other_home" PATH="$LLMB_INSTALL/bin:$PATH" bash -c \
  "mkdir -p ~; $(sed -n 's/^    \(mkdir .* ln -sf .*\)/\1/p' "$repository/docs/recipe.md")
   ~/bin/llmb-run list && ~/bin/llmb-run --version | grep -q '^llmb-run of nereus'"
expect "another partition is refused" bash -c \
  "'$program' setup --gpu-partition '${partition}x' --yes 2>&1 </dev/null | grep -qF 'did you mean $partition?'"

# A second setup keeps what it is not asked about, and mends what is gone.
echo "site: here" >>"$config"
before=$(cat "$config")
rm "$LLMB_INSTALL/bin/nereus"
expect "setup again" "$program" setup --repo "$repository" --no-download --yes </dev/null
expect "setup again: the configuration stays" test "$(cat "$config")" = "$before"
expect "setup again: the program is back" "$LLMB_INSTALL/bin/llmb-run" list

# 2. The check of the nodes, from the installation: one task a node; then training.
export GPU_TYPE=h100 JOB_TOTAL_GPUS=4 NEREUS_PRESET=original NEREUS_DOCTOR=true
export PIPELINE_PARALLEL_DEGREE=2 EXPERT_PARALLEL_DEGREE=2 PIPELINE_PARALLEL_SCHEDULE=1F1B
export LOCAL_BATCH_SIZE=4 SEQ_LEN=64 TRAINING_STEPS=1 ACTIVATION_CHECKPOINT_MODE=full
export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 20000))
small=(--model_overrides.{vocab_size=64,dim=32,inter_dim=48,moe_inter_dim=16,n_layers=4,n_dense_layers=1}
  --model_overrides.{n_heads=2,num_experts=4,top_k=2,q_lora_rank=16,kv_lora_rank=16}
  --model_overrides.{qk_nope_head_dim=8,qk_rope_head_dim=8,v_head_dim=8,attn_mask_type=causal}
  --training.dataset=random --training.mixed_precision_param=float32 --metrics.log_freq=1
  --device.kind=cpu --cpu.threads=1)
submit() {
  mkdir -p "$LLMB_EXPERIMENT_DIR"
  sbatch --parsable -N 2 --ntasks-per-node=2 --output="$LLMB_EXPERIMENT_DIR/slurm.out" \
    "$LLMB_INSTALL/llmb_repo/recipes/deepseek_v3/launch.sh" "${small[@]}" "$@"
}
export LLMB_REPO=$LLMB_INSTALL/llmb_repo
export LLMB_EXPERIMENT_DIR=$folder/runs/1 GPUS_PER_NODE=0
job=$(submit)
state=$(ended "$job")
[[ $state == COMPLETED ]] || {
  echo "FAILED: job $job is $state"
  tail -n 30 "$LLMB_EXPERIMENT_DIR"/*.out "$LLMB_EXPERIMENT_DIR"/*.err
}
expect "both nodes were checked" test \
  "$(grep -c 'checks' "$LLMB_EXPERIMENT_DIR/slurm.out")" = 2
expect "training followed" grep -q 'step:  1 ' "$LLMB_EXPERIMENT_DIR"/log-torchtitan_*.out

# 3. A check that fails ends the job before training, with the table.
export LLMB_EXPERIMENT_DIR=$folder/runs/2 GPUS_PER_NODE=64
job=$(submit)
expect "a failed check: the job failed" test "$(ended "$job")" = FAILED
expect "a failed check: says what" grep -q ' FAILED   GPUs .*64 are expected' "$LLMB_EXPERIMENT_DIR/slurm.out"
expect "a failed check: says what to do" grep -q 'Leave a node out with sbatch --exclude' "$LLMB_EXPERIMENT_DIR/slurm.out"
expect "a failed check: nothing was trained" bash -c "! ls '$LLMB_EXPERIMENT_DIR'/log-torchtitan_*"

# 4. A data set that is not there names the command that fetches it.
export LLMB_EXPERIMENT_DIR=$folder/runs/3 NEREUS_DOCTOR=false
job=$(submit --training.dataset=c4 --training.dataset_path="$folder/none")
expect "no data set: the job failed" test "$(ended "$job")" = FAILED
expect "no data set: says how to get it" bash -c \
  "grep -q 'nereus download dataset --dir $folder/none' '$LLMB_EXPERIMENT_DIR'/*"

[[ $failures == 0 ]] && echo "setup and doctor on Slurm: all passed"
exit $((failures > 0))
