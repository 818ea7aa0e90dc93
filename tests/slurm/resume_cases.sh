# Cases of suite.sh: runs that are stopped and go on.
# shellcheck shell=bash disable=SC2034,SC2086,SC2154

# The step of the job's newest checkpoint.
saved_step() {
  find "$job_folder/outputs/checkpoint" -maxdepth 1 -name 'step-*' -printf '%f\n' 2>/dev/null |
    grep -xE 'step-[0-9]+' | cut -d- -f2 | sort -n | tail -1
}
starts_after() { contains "$log" "Training starts at step $(($1 + 1))\$"; }
last_line_is() { tail -n 1 "$1" | grep -qE -- "$2"; }  # file, pattern

# NEREUS_REQUEUE, the files in the run's folder, NEREUS_RESUME.
goes_on() {
  new_folder goes_on
  unset LLMB_EXPERIMENT_DIR
  NEREUS_REQUEUE=true endless
  job_folder=$LLMB_INSTALL/workloads/pretrain_deepseek-v3-torchtitan/experiments/deepseek-v3-torchtitan_671b_bf16_gpus4/job_$job
  log=$(log_of "$job" 0)
  check "the job trains" trains
  scancel --signal=TERM "$job"  # as Slurm does before the limit
  check "it waits for its second attempt" wait_for $patience pends
  local step
  step=$(saved_step)
  check "what it has done is saved" test "${step:-0}" -gt 0
  check "the batch log says that it is requeued" contains "$batch_log" "^$step of 1000000 steps are saved: job $job is requeued and goes on from there"
  check "the ranks' exit code is 143" ranks_end $all_stopped
  scontrol update jobid="$job" StartTime=now+2
  log=$(log_of "$job" 1)
  check "the second attempt trains" wait_for $patience starts_after "$step"
  touch "$job_folder/outputs/save"
  check "a file asks for a checkpoint" wait_for $patience test ! -e "$job_folder/outputs/save"
  touch "$job_folder/outputs/save-and-stop"
  check "a file ends the job" ends FAILED
  check "its exit code is 75" is ExitCode 75:0
  check "both have saved" test "$(find "$job_folder/outputs/checkpoint" -name manifest.json | wc -l)" = 3
  local first=$job
  local how="To go on: LLMB_INSTALL=$LLMB_INSTALL NEREUS_RESUME=$job sbatch -N 2 --ntasks-per-node=2 $repository/recipes/deepseek_v3/launch.sh\$"
  step=$(saved_step)
  check "the log's last line is how to go on" last_line_is "$log" "is not finished: $step of 1000000 steps are saved. $how"
  check "the batch log's too" last_line_is "$batch_log" "^The run is not finished: $step of 1000000 steps are saved. $how"

  # What the environment does not say is the run's.
  job=$(env -u GPU_TYPE -u SEQ_LEN -u LOCAL_BATCH_SIZE TRAINING_STEPS=$((step + 2)) NEREUS_RESUME="$first" GPUS_PER_NODE=2 \
    sbatch --parsable -N 2 --ntasks-per-node=2 -w "$first_node,zz1" "--output=$folder/runs/goes_on/slurm-%j.out" recipes/deepseek_v3/launch.sh)
  batch_log=$folder/runs/goes_on/slurm-$job.out log=$(log_of "$job" 0) errors=${log%.out}.err
  check "NEREUS_RESUME: the job completes" ends COMPLETED
  check "NEREUS_RESUME: it goes on in the folder of job $first" starts_after "$step"
  check "NEREUS_RESUME: of a finished run no line says how to go on" lacks "$log" 'To go on'
  new_folder goes_on
  unset LLMB_EXPERIMENT_DIR
  NEREUS_RESUME=1 submit
  check "NEREUS_RESUME of no job: it fails" ends FAILED
  check "NEREUS_RESUME of no job: the batch log says so" contains "$batch_log" 'Job 1 has no run in '
}

# With rank 3 stopped in the middle of its save none of the others ends: srun would kill it.
slow_writer() {
  new_folder slow_writer
  endless -- --checkpoint.enable --checkpoint.interval=1000000 --model_overrides.vocab_size=20000
  check "the job trains" trains
  local slow
  slow=$(ranks_on zz1 3)
  (
    for ((i = 0; i < 6000; ++i)); do
      compgen -G "$job_folder/outputs/checkpoint/step-*" >/dev/null && break
      sleep 0.01
    done
    kill -STOP "$slow"
  ) &
  scancel --signal=TERM "$job"
  wait $!
  sleep 1.5
  check "no rank has ended" ranks_ended ""
  kill -CONT "$slow"
  check "then all do" ranks_end $all_stopped
  check "the job fails" ends FAILED
  check "the checkpoint is complete" test -s "$job_folder/outputs/checkpoint/step-$(saved_step)/manifest.json"
}

# A rank that dies before the ranks have met.
early_death() {
  new_folder early_death
  local begin end
  cat >"$job_folder/prolog" <<'EOF'
#!/bin/bash
[[ $SLURM_PROCID != 3 ]] || kill -KILL $PPID  # the task, before it becomes the program
EOF
  chmod +x "$job_folder/prolog"
  begin=$(date +%s%N)
  ADDITIONAL_SLURM_PARAMS="task-prolog=$job_folder/prolog" submit
  check "the job fails" ends FAILED
  end=$((($(date +%s%N) - begin) / 1000000))
  echo "from sbatch to the end of a job whose rank 3 dies at once: $end ms"
  check "it does within 10 s" test $end -lt "$(soon 10000)"
  check "srun names the rank and its node" contains "$batch_log" 'zz1: task 3: Killed'
}

look_at_chained() {
  job=$1 batch_log=$job_folder/slurm-$1.out log=$(log_of "$1" 0)
  errors=${log%.out}.err
}
chained() {
  new_folder chained
  TRAINING_STEPS=1000000 submit_task --chain 2
  local first=${job%%$'\n'*} second=${job##*$'\n'} third step
  job=$second
  check "the second job waits for the first" is Dependency "afterany:$first(unfulfilled)"
  look_at_chained "$first"
  check "the first job trains" trains
  scancel --signal=TERM "$first"
  check "the first ends" ends FAILED
  step=$(saved_step)
  check "its log says how to go on" last_line_is "$log" "To go on: nereus submit --resume $first\$"
  look_at_chained "$second"
  check "the second goes on" wait_for $patience starts_after "$step"
  said=$(env -u TRAINING_STEPS -u PIPELINE_PARALLEL_DEGREE -u SEQ_LEN GPUS_PER_NODE=2 "$program" submit --resume "$first" --force --nodelist "$first_node,zz1" 2>&1)
  third=$(grep -oE 'jobid=[0-9]+' <<<"$said" | cut -d= -f2)
  job=$third
  check "submit --resume waits for the last job of the run ($said)" is Dependency "afterany:$second(unfulfilled)"
  scancel "$second"
  look_at_chained "$third"
  check "and goes on with it" wait_for $patience contains "$log" 'Training starts at step [1-9][0-9]+$'
  scancel "$third"
  check "it can be cancelled" ends CANCELLED
  said=$(TRAINING_STEPS=1000000 GPUS_PER_NODE=2 "$program" submit -w pretrain_deepseek-v3-torchtitan -s 671b --dtype bf16 --scale 4 \
    --force --dry-run -- "${small[@]}" 2>&1)
  check "a new job beside the unfinished run says so ($said)" grep -qE "is not finished: [0-9]+ of 1000000 steps .*nereus submit --resume $third goes on" <<<"$said"
}

# Of a job that is hardly longer than the lead of launch.sh's --signal.
short_begins() {
  new_folder short
  niceness=15 endless -w "$first_node,zz4" --time=4
  short_job=$job
}
trains_again() { test "$(grep -c 'Training starts at step' "$log")" = 2; }
short_goes_on() {
  look_at short "$short_job"
  check "the job trains" trains
  check "Slurm's signal comes at once, and the ranks start again" wait_for $patience contains "$batch_log" '^The job.s time limit is hardly longer'
  check "they train" wait_for $patience trains_again
  scancel "$job"
  check "it can be cancelled" ends CANCELLED
}
