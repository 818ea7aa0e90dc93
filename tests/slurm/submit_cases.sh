# Cases of suite.sh: `nereus submit` and `nereus jobs`.
# shellcheck shell=bash disable=SC2034,SC2154

# Submits the small model as a user would: a task of the recipe's workload.
submit_task() {
  unset LLMB_EXPERIMENT_DIR
  mkdir -p "$LLMB_INSTALL"
  cat >"$LLMB_INSTALL/cluster_config.yaml" <<EOF
schema_version: 2
llmb_repo: $repository
llmb_install: $LLMB_INSTALL
gpu_type: h100
install: {node_architecture: x86_64}
slurm: {gpu: {partition: main}}
workloads: {installed: [pretrain_deepseek-v3-torchtitan]}
EOF
  job=""
  said=$(GPUS_PER_NODE=2 "$program" submit -w pretrain_deepseek-v3-torchtitan -s 671b --dtype bf16 --scale 4 --force \
    --nodelist "$first_node,zz1" "$@" -- "${small[@]}" 2>&1)
  job=$(grep -oE 'jobid=[0-9]+' <<<"$said" | cut -d= -f2)
  job_folder=$(grep -m 1 -oE 'workdir=[^ ]+' <<<"$said" | cut -d= -f2)
  batch_log=$job_folder/slurm-$job.out log=$(log_of "$job" 0)
  check "submit names the job and its folder ($said)" test -d "$job_folder" -a -n "$job"
}
# `nereus jobs` has the job in a line that ends like this.
jobs_say() { "$program" jobs | grep -qE "^pretrain_deepseek-v3-torchtitan_671b +bf16 +4 +$job .* $1 *\$"; }
# The same of a Slurm without accounting.
jobs_say_without_accounting() {
  sed '/^AccountingStorage/d' "$SLURM_CONF" >"${SLURM_CONF%/*}/unaccounted.conf"
  SLURM_CONF=${SLURM_CONF%/*}/unaccounted.conf jobs_say "$1"
}
# Whether the last columns of the job's line are the means of steps 35 to 44 over time: the seconds
# between the log's lines, and the tokens/s in them, rounded.
speed_is_of_log() {
  local seconds tokens said
  read -r seconds tokens < <(awk -F'step: *' '/step: / {
    split($1, word, "[ ,]"); split(word[3], clock, ":")
    time = clock[1] * 3600 + clock[2] * 60 + clock[3] + word[4] / 1000
    took = time - before + (time < before ? 86400 : 0); before = time
    if ($2 + 0 < 35 || $2 + 0 > 44) next
    tps = $2; sub(/.*tps: */, "", tps); sub(/ .*/, "", tps); gsub(/,/, "", tps)
    all += took; sum += took * tps
  }
  END { print all / 10, sum / all }' "$log")
  said=$("$program" jobs | awk -v job="$job" '$4 == job { print $(NF - 3), $(NF - 1) }')
  echo "$seconds $tokens $said" | awk '{ exit !(NF == 4 && $1 > 0 && ($1 - $3)^2 < 1e-4 && ($2 - $4)^2 < 1e-3) }'
}

rebuilt_with() { "$program" jobs rebuild && "$program" jobs | grep -qE "^pretrain_deepseek-v3-torchtitan_671b +bf16 +4 +$1 "; }

submitted() {
  new_folder submitted
  TRAINING_STEPS=46 submit_task
  check "the job completes" ends COMPLETED
  check "its folder has what was submitted" contains "$job_folder/llmb-config_$job.yaml" "^ +scale: 4"
  check "its name is the task's" is JobName pretrain_deepseek-v3-torchtitan_671b_bf16
  check "nereus jobs has its state" wait_for $patience jobs_say 'COMPLETED .*'
  check "nereus jobs has the s/iteration and tokens/s of its log" speed_is_of_log

  TRAINING_STEPS=1000000 submit_task --slurm-arg time=30
  check "--slurm-arg reaches sbatch" is TimeLimit 00:30:00
  check "the second job trains" trains
  check "nereus jobs has it as running" wait_for $patience jobs_say 'RUNNING +[0-9:]+ +[0-9]+/1000000'
  check "nereus jobs log has its log" grep -q 'step:  1 ' <("$program" jobs log "$job")
  scancel "$job"
  check "nereus jobs rebuild finds the run of launch.sh alone" rebuilt_with "$scripts_job"
  check "it can be cancelled" ends CANCELLED
  check "without accounting nereus jobs has that from scontrol" wait_for $patience jobs_say_without_accounting 'CANCELLED.*'
  accounted "$job" CANCELLED
}
