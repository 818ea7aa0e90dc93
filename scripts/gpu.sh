#!/usr/bin/env bash
# Checks and measures the GPU code on a machine that has a GPU and no build of its own.
#
#   scripts/gpu.sh pack          here: builds the cuda preset and puts the stripped programs and the
#                                libraries that the other machine may lack into .gpu/ (not in git);
#                                with BEFORE=PROGRAM an older nereus too, for the suite `compare`
#   scripts/gpu.sh run SUITE..   there: runs suites one after the other; results go to $OUT or
#                                .gpu/out; the summary comes last
#
# Suites:
#   smoke     the GPU and its libraries; device and op tests
#   golden    golden models and trajectories on the GPU
#   slice     training of configs/slice1.toml, by recompute mode
#   bench     nereus bench gpu
#   sanitize  compute-sanitizer over the small op tests
#   doctor    nereus doctor
#   tiny      200 steps on real text, bf16 on the GPU
#   profile   the profiler's tests; traces and snapshots of configs/slice1.toml and of a small model:
#             whether they are right, their sizes, what recording costs a step (under 5 %)
#   two       with two GPUs: NCCL's tests, layouts of a small model in f32 against one GPU
#   slice2    with two GPUs: training of configs/slice2.toml, one layout after the other
#   kill      with two or four GPUs: a rank is killed in mid-run (SEEDS); the job ends within 3 s with
#             exit code 72, the dead rank, its step and what each survivor waited in
#   compose   models drawn at random, in f32, against the formulas in double (DRAWS=FIRST:COUNT);
#             with two GPUs and more, draws whose layouts have as many ranks, a process with a GPU
#             each, against one GPU (LAYOUTS=FIRST:COUNT; one in seven has two ranks, one in three
#             two to four)
#   checkpoint  a copy of states beside the update; what a save beside steps costs configs/slice1.toml
#   compare   the older nereus of the pack and this one in alternating pairs: configs/slice1.toml, and
#             with two GPUs configs/slice2.toml with EP 2; medians of tokens/s a GPU after 10 steps
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
readonly gpu=.gpu

pack() {
  set -e
  cmake --preset cuda >/dev/null
  local programs=${PROGRAMS:-nereus device_test ops_test train_test comm_test launch_test parallel_test engine_test checkpoint_test observe_test}
  # shellcheck disable=SC2086
  cmake --build build-cuda --parallel "${JOBS:-$(nproc)}" --target $programs
  local program folder
  [[ -z ${BEFORE:-} || -x $BEFORE ]] || { echo "gpu.sh: BEFORE=$BEFORE is no program" >&2; exit 2; }
  folder=$(mktemp -d)
  mkdir -p "$folder/bin" "$folder/lib"
  for program in $programs; do
    strip -o "$folder/bin/$program" "build-cuda/$([[ $program == *_test ]] && echo src/)$program"
  done
  [[ -n ${BEFORE:-} ]] && strip -o "$folder/bin/before" "$BEFORE"
  # Small libraries of this distribution's; CUDA's and the C library's are the other machine's own.
  ldd "$folder"/bin/* | awk '/=> \// && !/(lib(c|m|dl|pthread|rt|gcc_s|stdc\+\+)\.so|ld-linux|cuda|cublas)/ { print $3 }' |
    sort -u | xargs -r cp -Lt "$folder/lib"
  rm -rf $gpu && mkdir -p $gpu
  tar -C "$folder" -c bin lib | xz -2 -T0 >$gpu/programs.tar.xz
  rm -rf "$folder"
  du -h $gpu/programs.tar.xz
}

# Folders of CUDA's, cuDNN's and NCCL's libraries: the toolkit's, and those that Python packages bring.
library_path() {
  local path=$PWD/$gpu/lib:/usr/local/cuda/lib64 folder
  folder=$(python3 -c 'import nvidia, os; print(list(nvidia.__path__)[0])' 2>/dev/null) &&
    path=$path:$folder/cudnn/lib:$folder/nccl/lib
  echo "$path"
}

summary=()
# Runs a step with a time limit in seconds; its output goes to a file and its last lines here.
step() {
  local name=$1 limit=$2 begin code
  shift 2
  begin=$(date +%s)
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  summary+=("$(printf '%-22s exit %3d  %4d s' "$name" $code $(($(date +%s) - begin)))")
  echo "=== $name: exit $code"
}

tests() {  # name, limit, program, filter
  step "$1" "$2" "$gpu/bin/$3" --gtest_brief=1 --gtest_filter="$4"
  grep -E '^\[ *(FAILED|PASSED|SKIPPED)|Failure|^Expected|^  Actual|^error' "$out/$1.log" | head -${LINES_SHOWN:-40}
}

readonly small=(--device.kind=cuda --model.flavor=671B
  --model_overrides.{vocab_size=512,dim=256,inter_dim=512,moe_inter_dim=128,n_layers=4}
  --model_overrides.{n_dense_layers=1,n_heads=4,num_experts=8,top_k=2,q_lora_rank=64}
  --model_overrides.{kv_lora_rank=64,attn_mask_type=causal} --training.dataset=random)

# Five steps of a small model in f32 with a layout; the last losses side by side in two.txt.
two_layout() {
  local words=() word name=${1//[^a-zA-Z0-9]/_} line
  for word in $1; do
    case $word in
      --*) words+=("$word") ;;
      *=*) words+=("--parallelism.$word") ;;
      *) words+=("--parallelism.${word}_parallel_degree=2") ;;
    esac
  done
  step "two${name:+_$name}" 60 $gpu/bin/nereus train "${small[@]}" \
    --training.{local_batch_size=4,global_batch_size=8,seq_len=256,steps=5,seed=3} \
    --training.mixed_precision_param="${DTYPE:-float32}" --metrics.log_freq=1 \
    --comm.{init,train}_timeout_seconds=20 \
    --job.dump_folder="$out/two" "${words[@]}"
  line=$(grep -oE 'step:  5 .*grad_norm: +[0-9.]+' "$out/two${name:+_$name}.log" || tail -3 "$out/two${name:+_$name}.log")
  printf '%-70s %s\n' "${1:-one GPU}" "$line" >>"$out/two.txt"
}

# A run of which one rank is killed after some steps: its last line in kill.txt says whether all
# ended within 3 s, with exit code 72, and whether each survivor told who died and what it waited in.
kill_rank() {  # name, rank, ranks, seconds after step 20, arguments of nereus train
  local name=$1 rank=$2 ranks=$3 after=$4 log=$out/kill_$1.log launcher child begin ms code wrong=''
  shift 4
  "$gpu/bin/nereus" train "$@" --nproc "$ranks" --training.steps=1000000 --metrics.log_freq=10 \
    --job.dump_folder="$out/kill_$name" >"$log" 2>&1 &
  launcher=$!
  for ((begin = SECONDS; SECONDS < begin + 90;)); do
    if grep -qE 'step: +20 ' "$log" || ! kill -0 $launcher 2>/dev/null; then break; fi
    sleep 0.05
  done
  sleep "$after"
  begin=$(date +%s%N)
  for child in /proc/[0-9]*; do
    grep -qsE "^PPid:\s+$launcher\$" "$child/status" && grep -qzx "RANK=$rank" "$child/environ" &&
      kill -9 "${child#/proc/}"
  done
  (sleep 60 && kill -9 $launcher) 2>/dev/null &
  child=$!
  wait $launcher
  code=$?
  ms=$((($(date +%s%N) - begin) / 1000000))
  kill $child 2>/dev/null
  [[ $code == 72 ]] || wrong+=", exit code $code"
  ((ms < 3000)) || wrong+=", too late"
  (($(grep -cE "error: rank $rank of the world \(host .*\) died at step [0-9]+:" "$log") == ranks - 1)) ||
    wrong+=", not all say who died"
  (($(grep -cE '^  rank [0-9]+ of the world \(host .*\): it (is waiting in|has done) .* at step' "$log") == ranks - 1)) ||
    wrong+=", not all say what they waited in"
  printf '%-16s rank %d killed: %5d ms, exit %d%s\n' "$name" "$rank" $ms $code "${wrong:-, as it should}" |
    tee -a "$out/kill.txt"
  grep -hE 'does not come back|is killed' "$log"
  [[ -z $wrong ]] || tail -20 "$log"
  summary+=("$(printf '%-22s exit %3d  %4d ms' "kill_$name" "$([[ -z $wrong ]]; echo $?)" $ms)")
}

# PAIRS runs of each program by turns. Every run's median, then those medians' median and the ratio.
compare() {  # name, arguments of nereus train
  local name=$1 pair program folder
  shift
  for ((pair = 1; pair <= ${PAIRS:-3}; ++pair)); do
    for program in before nereus; do
      folder=$out/compare_${name}_${program}_$pair
      step "compare_${name}_${program}_$pair" 100 "$gpu/bin/$program" train "$@" \
        --training.steps="${STEPS:-31}" --metrics.log_freq=10 --job.dump_folder="$folder"
      grep -oP '"tps":\K[0-9.]+' "$folder/metrics.jsonl" | tail -n +3 | sort -n |
        awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }' >>"$out/compare_${name}_$program"
    done
  done
  for program in before nereus; do
    sort -n "$out/compare_${name}_$program" | awk -v n="$name" -v p="$program" '
      { a[NR] = $1; all = all " " $1 }
      END { printf "%-8s %-7s median %s of%s\n", n, p, a[int((NR + 1) / 2)], all }'
  done | awk '{ print; m[NR] = $4 } END { printf "%-8s ratio   %.4f\n", $1, m[2] / m[1] }' >>"$out/compare.txt"
}

# Medians of the steps that were recorded and of those that were not; the first after a trace waits
# for its file, and the first of a warm-up for CUPTI.
profile_cost() {  # folder
  grep -oP '"step":[0-9]+|"step_seconds":[0-9.e-]+' "$1/metrics.jsonl" | cut -d: -f2 | paste - - |
    awk '$1 > 3 { print ($1 % 10 == 8 || $1 % 10 == 9) ? "on" : ($1 % 10 > 1 && $1 % 10 < 7) ? "off" : "-", $2 }' |
    sort -k1,1 -k2,2g | awk '
      { v[$1, n[$1]++] = $2 }
      END { on = v["on", int(n["on"] / 2)]; off = v["off", int(n["off"] / 2)]
            printf "recorded %.3f ms, not recorded %.3f ms: %+.2f %%\n", 1e3 * on, 1e3 * off, 100 * (on / off - 1) }'
}

gpus() { nvidia-smi -L | grep -c '^GPU'; }

run_suite() {
  case $1 in
    smoke)
      step device 60 nvidia-smi
      grep -E 'MiB|Driver' "$out/device.log"
      tests device_test 60 device_test '*'
      tests ops_test 300 ops_test '*'
      tests parallel_test 60 parallel_test '*'
      ;;
    golden) tests golden 200 train_test '*Golden*:*Bf16*:Trainer*' ;;
    slice)
      local mode
      for mode in ${MODES:-none selective full}; do
        step "slice_$mode" 150 $gpu/bin/nereus train configs/slice1.toml \
          --activation_checkpoint.mode="$mode" --job.dump_folder="$out/slice_$mode" ${ARGS:-}
        grep -E 'step:|ready|error|rror:|Memory|GiB' "$out/slice_$mode.log" | cut -c1-220 | tail -12
      done
      ;;
    bench)
      step bench 200 $gpu/bin/nereus bench gpu ${ARGS:-}
      cat "$out/bench.log"
      ;;
    sanitize)
      local tool
      for tool in memcheck racecheck initcheck; do
        step "$tool" 200 compute-sanitizer --tool $tool --error-exitcode 9 $gpu/bin/ops_test \
          --gtest_brief=1 --gtest_filter="${FILTER:-*Device*}"
        tail -5 "$out/$tool.log"
      done
      ;;
    checkpoint)
      local place
      tests checkpoint_test 60 checkpoint_test 'Snapshot*'
      place=$(mktemp -d -p "${FOLDER:-$out}" checkpoint.XXXX) || exit 2
      step checkpoint 400 $gpu/bin/nereus bench checkpoint --folder="$place" ${ARGS:-}
      tail -12 "$out/checkpoint.log"
      grep -E 'Finished saving|is complete|WARN|rror' "$out/checkpoint.log" | cut -c1-220
      rm -rf "$place"
      ;;
    doctor)
      step doctor 60 $gpu/bin/nereus doctor
      cat "$out/doctor.log"
      ;;
    tiny)
      step tiny 200 $gpu/bin/nereus train configs/tiny.toml --device.kind=cuda \
        --job.dump_folder="$out/tiny" ${ARGS:-}
      tail -12 "$out/tiny.log" | cut -c1-200
      ;;
    profile)
      local model arguments trace
      tests profile_tests 200 train_test '*StepProfiler*'
      for model in slice1 small; do
        arguments=(configs/slice1.toml)
        [[ $model == small ]] && arguments=("${small[@]}" --training.{local_batch_size=4,seq_len=1024})
        step "profile_$model" 200 $gpu/bin/nereus train "${arguments[@]}" --training.steps=61 \
          --metrics.log_freq=1 --profiling.enable_{profiling,memory_snapshot} \
          --job.dump_folder="$out/profile_$model" ${ARGS:-}
        trace=$(ls "$out/profile_$model"/profile_traces/iteration_30/rank0_trace.json*)
        {
          echo "== $model"
          ls -l "$out/profile_$model"/*/iteration_30/
          [[ $trace == *.gz ]] || gzip -kc "$trace" | wc -c | sed 's/$/ bytes compressed/'
          profile_cost "$out/profile_$model"
          NEREUS_TRACES="$trace:$out/profile_$model/kernels_trace.json" \
            $gpu/bin/observe_test --gtest_brief=1 --gtest_filter='*NamedByTheEnvironment*'
          $gpu/bin/nereus profile "$trace"
        } >>"$out/profile.txt" 2>&1
        tail -4 "$out/profile_$model.log" | cut -c1-250
      done
      cat "$out/profile.txt"
      ;;
    two)
      tests comm_test 200 comm_test "${FILTER:-*Nccl*:*NCCL*:*nccl*}"
      tests launch_test 60 launch_test "${FILTER:-*Nccl*}"
      local layout
      while read -r layout; do two_layout "$layout"; done <<<"${LAYOUTS-
--nproc=2
--nproc=2 expert
--nproc=2 expert --parallelism.expert_overlap
--nproc=2 expert expert_dispatcher=host_counts
--nproc=2 tensor
--nproc=2 context
--nproc=2 pipeline
--nproc=2 pipeline pipeline_parallel_schedule=GPipe
--nproc=2 pipeline pipeline_parallel_schedule=ZBVZeroBubble
--nproc=2 pipeline pipeline_parallel_schedule=Interleaved1F1B
--nproc=2 fsdp_reshard_after_forward=never}"
      cat "$out"/two.txt
      ;;
    slice2)
      local run PIPE="--training.local_batch_size=8 --parallelism.pipeline_parallel_degree=2"
      PIPE+=" --parallelism.pipeline_parallel_first_stage_less_layers=0"
      PIPE+=" --parallelism.pipeline_parallel_last_stage_less_layers=0"
      PIPE+=" --parallelism.pipeline_parallel_schedule"
      while read -r run; do
        [[ -z $run ]] && continue
        # shellcheck disable=SC2086
        step "slice2_${run%% *}" 150 $gpu/bin/nereus train configs/slice2.toml --nproc 2 \
          --job.dump_folder="$out/slice2_${run%% *}" ${run#* } ${ARGS:-}
        grep -E 'step: (10|20)|rror|needs|total|ready|Speed|speed' "$out/slice2_${run%% *}.log" | cut -c1-220 | tail -7
      done <<<"${RUNS:-fsdp --
fsdp_unordered --device.attention=cudnn --device.unordered_attention
ep2 --parallelism.expert_parallel_degree=2
ep2overlap --parallelism.expert_parallel_degree=2 --parallelism.expert_overlap
ep2skew --parallelism.expert_parallel_degree=2 --training.debug_moe_skew_percent=50
ep2full --parallelism.expert_parallel_degree=2 --activation_checkpoint.mode=full
1f1b $PIPE=1F1B
zbv $PIPE=ZBVZeroBubble
dualpipev $PIPE=DualPipeV
interleaved $PIPE=Interleaved1F1B
gpipe $PIPE=GPipe}"
      ;;
    kill)
      local gpus seed
      gpus=$(nvidia-smi -L | wc -l)
      for seed in ${SEEDS:-1 2 3 4}; do
        kill_rank "ep_$seed" $((seed % gpus)) "$gpus" "0.$((seed * 37 % 100))" "${small[@]}" \
          --training.{local_batch_size=4,seq_len=256} --parallelism.expert_parallel_degree="$gpus"
        kill_rank "overlap_$seed" $((seed % gpus)) "$gpus" "0.$((seed * 53 % 100))" "${small[@]}" \
          --training.{local_batch_size=4,seq_len=256} --parallelism.expert_parallel_degree="$gpus" \
          --parallelism.expert_overlap
        kill_rank "pipeline_$seed" $((seed % gpus)) "$gpus" "0.$((seed * 71 % 100))" "${small[@]}" \
          --training.{local_batch_size=4,seq_len=256} --parallelism.pipeline_parallel_degree=2
      done
      # Memory of a real model's size has to be given back too.
      ((gpus == 2)) && kill_rank slice2 1 2 0.3 configs/slice2.toml --parallelism.expert_parallel_degree=2
      cat "$out/kill.txt"
      ;;
    compose)
      NEREUS_COMPOSE=${DRAWS:-2000000:200} tests compose 300 engine_test '*Compose.OneRank*'
      grep -E ' draws, ' "$out/compose.log"
      [[ $(gpus) -lt 2 ]] && return
      NEREUS_COMPOSE=${LAYOUTS:-2000000:120} tests compose_layouts 450 engine_test \
        'Compose.LayoutsOfProcesses*'
      grep -E ' draws, | processes ' "$out/compose_layouts.log"
      ;;
    compare)
      compare slice1 configs/slice1.toml
      [[ $(gpus) -ge 2 ]] &&
        compare slice2 configs/slice2.toml --nproc 2 --parallelism.expert_parallel_degree=2
      cat "$out/compare.txt"
      ;;
    *)
      echo "gpu.sh: no suite '$1': smoke, golden, slice, bench, sanitize, doctor, tiny, profile, checkpoint, two, slice2, kill, compose, compare" >&2
      exit 2
      ;;
  esac
}

case ${1:-} in
  pack) pack ;;
  run)
    shift
    [[ -d $gpu/bin ]] || tar -C $gpu -xf $gpu/programs.tar.xz || exit 2
    out=${OUT:-$gpu/out}
    mkdir -p "$out"
    LD_LIBRARY_PATH=$(library_path)
    NEREUS_SOURCE_DIR=$PWD
    export LD_LIBRARY_PATH NEREUS_SOURCE_DIR
    for suite in "$@"; do run_suite "$suite"; done
    printf '%s\n' "${summary[@]}"
    ;;
  *)
    sed -n '2,30s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
