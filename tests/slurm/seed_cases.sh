# Cases of suite.sh: what the recipe's own page says, typed as it is. The partition `gpus` has the
# last node of `main`, which is real, and nodes that are not there: what needs them stays queued.
# shellcheck shell=bash disable=SC2016,SC2154

# The examples of the page; the nodes and tasks a node that each needs, and what its srun line has.
seed_lines=(
  'GPU_TYPE=h100 JOB_TOTAL_GPUS=512 sbatch launch.sh|64 8|'
  'GPU_TYPE=b200 JOB_TOTAL_GPUS=256 sbatch launch.sh|32 8|'
  'GPU_TYPE=gb200 JOB_TOTAL_GPUS=256 sbatch launch.sh|64 4|'
  'GPU_TYPE=h100 JOB_TOTAL_GPUS=1024 TRAINING_STEPS=5000 sbatch launch.sh|128 8|--training.steps=5000'
  'GPU_TYPE=h100 JOB_TOTAL_GPUS=512 DATA_PARALLEL_SHARD_DEGREE=32 EXPERT_PARALLEL_DEGREE=16 PIPELINE_PARALLEL_DEGREE=4 sbatch launch.sh||'
  'ADDITIONAL_SLURM_PARAMS="nodelist=node001,node002" GPU_TYPE=h100 JOB_TOTAL_GPUS=512 sbatch launch.sh|64 8|--nodelist=node001,node002'
  'ADDITIONAL_SLURM_PARAMS="constraint=gpu&memory;exclusive" GPU_TYPE=b200 JOB_TOTAL_GPUS=256 sbatch launch.sh|32 8|--exclusive'
  'ADDITIONAL_SLURM_PARAMS="reservation=my_reservation" GPU_TYPE=gb200 JOB_TOTAL_GPUS=256 sbatch launch.sh|64 4|--reservation=my_reservation'
)

# A line of the page in a shell of its user, who has exported what the page says.
typed() {  # folder, line
  env -i PATH="$PATH" HOME="$folder/home" SLURM_CONF="$SLURM_CONF" LLMB_INSTALL="$seed_install" SBATCH_PARTITION=gpus \
    LLMB_WORKLOAD="$seed_install/workloads/pretrain_deepseek-v3-torchtitan" bash -c "cd $1 && $2" 2>&1
}
submitted_as() { job=$(sed -n 's/^Submitted batch job //p' <<<"$1"); }

seed() {
  if ! scontrol show partition gpus >/dev/null 2>&1; then
    echo "skipped: seed: there is no partition gpus (PRETENDED_NODES of cluster.sh)"
    return
  fi
  new_folder seed
  seed_install=$folder/seed_install
  mkdir -p "$folder/home"
  check "setup" env HOME="$folder/home" "$program" setup --install "$seed_install" --repo "$repository" --account test \
    --gpu-type h100 --gpu-partition gpus --cpu-partition main --shards none --no-download --yes
  local place='$LLMB_INSTALL/llmb_repo/deepseek_v3/pretrain/torchtitan/' logs=$seed_install/llmb_repo/recipes/deepseek_v3
  local entry line needs option said jobs=()
  for entry in "${seed_lines[@]}"; do
    said=$(typed "$place" "${entry%%|*}")
    submitted_as "$said"
    check "it is submitted: ${entry%%|*} ($said)" test -n "$job"
    jobs+=("$job")
  done
  local i
  for i in "${!seed_lines[@]}"; do
    IFS='|' read -r line needs option <<<"${seed_lines[i]}"
    job=${jobs[i]} batch_log=$logs/slurm-${jobs[i]}.out
    check "$line: the job fails" ends FAILED
    check "$line: exit code 2" is ExitCode 2:0
    check "$line: one message" test "$(grep -c '^error: ' "$batch_log")" = 1
    if [[ -z $needs ]]; then
      check "$line: what would fit is said" contains "$batch_log" 'set DATA_PARALLEL_SHARD_DEGREE to 128 or -1'
      continue
    fi
    # What it says is typed.
    said=$(sed -n 's/^  \(.*sbatch -N .*\)/\1/p' "$batch_log")
    check "$line: what to type has the example's variables ($said)" \
      test "$(tr ' ' '\n' <<<"${line%% sbatch*}" | sort | tr -d '"')" = "$(tr ' ' '\n' <<<"${said%% sbatch*}" | sort | tr -d "'")"
    said=$(typed "$place" "$said")
    submitted_as "$said"
    check "$line: what to type is queued ($said)" is JobState PENDING
    check "$line: for its nodes" is NumNodes "${needs% *}-${needs% *}"
    check "$line: and tasks" is NumTasks $((${needs% *} * ${needs#* }))
    scancel "$job"
    said=$(typed "$place" "${line%% sbatch*} ./launch.sh --dry-run" | tail -n 1)
    check "$line: the srun line ($said)" \
      grep -qE -- "^srun --ntasks=$((${needs% *} * ${needs#* })) .*${option:-nereus train}" <<<"$said"
  done

  # The data set by sbatch, from the workload's folder and from anywhere. All shards are there.
  mkdir -p "$seed_install/datasets/c4/en"
  (cd "$seed_install/datasets/c4/en" && touch c4-train.{00000..01023}-of-01024.json.gz c4-validation.0000{0..7}-of-00008.json.gz)
  submitted_as "$(typed '$LLMB_WORKLOAD' 'sbatch download_dataset.sh')"
  check "download_dataset.sh by sbatch: it completes" ends COMPLETED
  check "download_dataset.sh by sbatch: its limit is 12 hours" is TimeLimit 12:00:00
  submitted_as "$(typed "$folder" "sbatch $seed_install/llmb_repo/deepseek_v3/pretrain/torchtitan/download_dataset.sh")"
  check "download_dataset.sh from elsewhere: it completes" ends COMPLETED
  check "download_dataset.sh from elsewhere: it found the data set" contains "$folder/slurm-$job.out" 'Dataset already exists'

  # A job that waits says why.
  said=$(typed '$LLMB_INSTALL' "bin/llmb-run submit -w pretrain_deepseek-v3-torchtitan -s 671b --dtype bf16 --scale 512 -- --training.dataset=random")
  job=$(grep -oE 'jobid=[0-9]+' <<<"$said" | cut -d= -f2)
  check "llmb-run submit queues it ($said)" is JobState PENDING
  check "nereus jobs says why it waits" wait_for "$patience" waits_with_reason
  scancel "$job"
}
waits_with_reason() { typed '$LLMB_INSTALL' 'bin/nereus jobs' | grep -qE " $job .* PENDING \([A-Z]"; }
