# Cases of suite.sh: what launch.sh runs and where it writes.
# shellcheck shell=bash disable=SC2154

runs() {
  new_folder runs
  local begin
  begin=$(date +%s%N)
  submit
  check "the job trains" trains
  local first_step=$((($(date +%s%N) - begin) / 1000000))
  echo "from sbatch to the first step: $first_step ms"
  check "the first step comes within 10 s of sbatch" test $first_step -lt "$(soon 10000)"
  check "the job completes" ends COMPLETED
  check "the log has its four steps" test "$(grep -c '^\[rank0\]:.* step:  [1-4] ' "$log")" = 4
  check "no other rank writes" lacks "$log" '^\[rank[123]\]:'
  check "nothing is an error" test ! -s "$errors"
  check "four ranks on two nodes" contains "$log" 'Layout: pp 2 x dp_shard 2, ep 2'
  check "the batch log has the settings" contains "$batch_log" 'training.seq_len = 64$'
  check "the batch log has the command" contains "$batch_log" '^srun --ntasks=4 .*nereus train'
  local below
  for below in profile_trace tb checkpoint comm_traces memory_snapshot; do
    check "outputs/$below, which is off, is not there" test ! -e "$job_folder/outputs/$below"
  done
  note_first_step
  check "metrics.jsonl has four steps" test "$(wc -l <"$job_folder/outputs/metrics.jsonl")" = 4
  accounted "$job" COMPLETED 0:0
  accounted "$job.0" COMPLETED 0:0
}

# The recipe's own place.
default_folder() {
  new_folder default_folder
  unset LLMB_EXPERIMENT_DIR
  submit
  check "the job completes" ends COMPLETED
  job_folder=$LLMB_INSTALL/workloads/pretrain_deepseek-v3-torchtitan/experiments/deepseek-v3-torchtitan_671b_bf16_gpus4/job_$job
  check "the log is in it" trains "$(log_of "$job" 0)"
  check "the outputs are in it" test -s "$job_folder/outputs/metrics.jsonl"
  log=$(log_of "$job" 0) scripts_job=$job  # `submitted` looks for it
  note_first_step
}

log_rank() {
  new_folder log_rank
  LOG_RANK=3 NEREUS_PRESET=newer submit
  check "the job completes" ends COMPLETED
  note_first_step
  check "the newer recipe saves its configuration" contains "$job_folder/configs/torchtitan_resolved_config.json" '"seq_len": 64'
  check "rank 3 writes the steps and the loss" contains "$log" '^\[rank3\]:.* step:  4  loss: '
  check "no other rank writes" lacks "$log" '^\[rank[012]\]:'
}

slurm_params() {
  new_folder slurm_params
  ADDITIONAL_SLURM_PARAMS='label; export=ALL,LOG_RANK=2' submit
  check "the job completes" ends COMPLETED
  note_first_step
  check "a flag: srun labels the lines" contains "$log" '^[0-3]: \[rank'
  check "a value with a comma: rank 2 writes" contains "$log" '^2: \[rank2\]:.* step:  4 '
  check "a value with a comma: no other rank does" lacks "$log" '^[013]: '

  new_folder slurm_params_unknown
  ADDITIONAL_SLURM_PARAMS=nonsense=1 submit
  check "an unknown option: the job fails" ends FAILED
  check "an unknown option: the batch log names it" contains "$batch_log" "unrecognized option '--nonsense=1'"
}

# Of the cases before, and of one more job.
first_steps() {
  new_folder first_steps
  submit
  check "the job completes" ends COMPLETED
  note_first_step
  local median
  median=$(printf '%s\n' "${first_step_ms[@]}" | sort -n | sed -n "$(((${#first_step_ms[@]} + 1) / 2))p")
  echo "from sbatch to the first step: ${first_step_ms[*]} ms, median $median"
  check "the median is below 3 s" test "$median" -lt "$(soon 3000)"
}

# The command line over SBATCH_* over #SBATCH.
precedence() {
  new_folder precedence
  submit --hold
  check "#SBATCH: the time limit" is TimeLimit 02:00:00
  check "#SBATCH: the name" is JobName deepseek_v3:torchtitan_launch
  scancel "$job"
  SBATCH_TIMELIMIT=30 SBATCH_JOB_NAME=variable submit --hold
  check "SBATCH_TIMELIMIT is over #SBATCH" is TimeLimit 00:30:00
  check "SBATCH_JOB_NAME is over #SBATCH" is JobName variable
  scancel "$job"
  SBATCH_TIMELIMIT=30 SBATCH_JOB_NAME=variable submit --hold --time=20 --job-name=option
  check "--time is over SBATCH_TIMELIMIT" is TimeLimit 00:20:00
  check "--job-name is over SBATCH_JOB_NAME" is JobName option
  scancel "$job"
  SBATCH_PARTITION=none submit --hold --partition=main
  check "--partition is over SBATCH_PARTITION" is Partition main
  scancel "$job"
}

refused() {
  new_folder refused
  local said=$job_folder/sbatch
  submit --partition=none 2>"$said"
  check "a partition that is not there: no job" test -z "$job"
  check "a partition that is not there: sbatch says so" contains "$said" 'invalid partition specified: none'
  SBATCH_PARTITION=none submit 2>"$said"
  check "SBATCH_PARTITION that is not there: sbatch says so" contains "$said" 'invalid partition specified: none'
  (unset GPU_TYPE && submit && ends FAILED && contains "$batch_log" 'GPU_TYPE is a required variable')
  check "without GPU_TYPE: the job fails and says so" test $? = 0

  EXPERT_PARALLEL_DEGREE=3 submit
  check "a degree that does not fit: the job fails" ends FAILED
  check "a degree that does not fit: exit code 2" is ExitCode 2:0
  check "a degree that does not fit: the batch log says so" contains "$batch_log" 'EXPERT_PARALLEL_DEGREE = 3 does not divide'
  JOB_TOTAL_GPUS=8 submit
  check "more ranks than the job has: it fails" ends FAILED
  check "more ranks than the job has: what does is said" contains "$batch_log" 'sbatch -N 1 --ntasks-per-node=8 '
  job=$(GPUS_PER_NODE=2 sbatch --parsable "--output=$job_folder/slurm-%j.out" recipes/deepseek_v3/launch.sh "${small[@]}")
  look_at refused "$job"
  check "sbatch launch.sh alone: the job fails" ends FAILED
  check "sbatch launch.sh alone: exit code 2" is ExitCode 2:0
  check "sbatch launch.sh alone: what works is said" contains "$batch_log" 'this job has 1 node.* Submit it like this'
  check "sbatch launch.sh alone: with its line" contains "$batch_log" 'JOB_TOTAL_GPUS=4 .* sbatch -N 2 --ntasks-per-node=2 '
  submit -- --training.nonsense=1
  check "a key that is not there: the job fails" ends FAILED
  check "a key that is not there: exit code 2" is ExitCode 2:0
  check "a key that is not there: said once, before the ranks start" \
    test "$(grep -c '^error: .*training.nonsense' "$batch_log")" = 1 -a ! -e "$errors"
  submit -- --training.dataset=c4 --training.dataset_path=/none
  check "a data set that is not there: the job fails" ends FAILED
  check "a data set that is not there: exit code 2" is ExitCode 2:0
  check "a data set that is not there: said once" \
    test "$(grep -c 'the data set /none ' "$batch_log")" = 1 -a ! -e "$errors"

  # What only the ranks can find, and what they find before they meet.
  local what
  for what in --training.dataset_path=/none --training.nonsense=1; do
    job=$(sbatch --parsable -N 2 --ntasks-per-node=2 -w "$first_node,zz1" "--output=$job_folder/slurm-%j.out" --wrap \
      "srun $program train ${small[*]} --training.dataset=c4 --training.steps=1 --job.dump_folder=$job_folder/plain $what")
    look_at refused "$job"
    check "$what by srun alone: the job fails" ends FAILED
    check "$what by srun alone: all ranks end with 2" is ExitCode 2:0
    check "$what by srun alone: said once" test "$(grep -c '^error: ' "$batch_log")" = 1
    check "$what by srun alone: by rank and host" contains "$batch_log" 'Found by rank [0-3] \(host '
  done
}
