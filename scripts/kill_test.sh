#!/usr/bin/env bash
# Kills small runs at random moments and starts them again, until each has reached its last step;
# what they computed must be, to the bit, what runs that nobody kills compute.
#
#   scripts/kill_test.sh N SEED [PROGRAM]   N kills; the same seed, the same moments (build/nereus)
#
# In turn: one rank; ranks as threads of a process; ranks as processes of their own, of which one
# dies. Each kill is SIGKILL, SIGTERM or SIGINT; now and then the newest checkpoint is damaged
# afterwards: a torn file, a flipped bit, a missing manifest, a rename that never came. After each:
# no complete checkpoint that was not damaged is lost. At the end: each step's loss and norm in all
# metrics files, and the last checkpoint's shards, are those of the run that nobody killed, and
# nothing but complete checkpoints remains, as many as keep_latest_k says.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
kills=$1
RANDOM=$2
program=$(realpath "${3:-$(dirname "$0")/../build/nereus}")
work=$(mktemp -d)
pids=()
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

small=(--model.flavor=671B --training.dataset=random --training.seq_len=16 --training.steps=60
  --training.seed=7 --training.mixed_precision_param=float32 --optimizer.lr=1e-3 --device.kind=cpu
  --training.local_batch_size=1 --training.global_batch_size=6 --cpu.threads=1
  --model_overrides.{vocab_size=64,dim=32,inter_dim=48,moe_inter_dim=16,n_layers=4}
  --model_overrides.{n_dense_layers=1,n_heads=2,num_experts=4,top_k=2,q_lora_rank=16}
  --model_overrides.{kv_lora_rank=16,qk_nope_head_dim=8,qk_rope_head_dim=8,v_head_dim=8}
  --model_overrides.attn_mask_type=causal --metrics.log_freq=1 --checkpoint.enable
  --checkpoint.interval=2 --checkpoint.keep_latest_k=3 --checkpoint.no_last_save_model_only)
modes=(one threads ranks)

start() {  # mode, folder: `pids` are its processes
  local rank command=("$program" train "${small[@]}" --job.dump_folder="$2")
  pids=()
  case $1 in
    one) "${command[@]}" </dev/null >>"$2.log" 2>&1 & pids=($!) ;;
    threads) "${command[@]}" --nproc=2 </dev/null >>"$2.log" 2>&1 & pids=($!) ;;
    ranks)
      port=$((20000 + (port - 20000 + 1) % 20000))
      for rank in 0 1 2; do
        RANK=$rank WORLD_SIZE=3 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=3 MASTER_ADDR=127.0.0.1 \
          MASTER_PORT=$port "${command[@]}" </dev/null >>"$2.log" 2>&1 &
        pids+=($!)
      done
      ;;
  esac
}
port=$((20000 + $$ % 20000))

finish() {  # waits; the largest exit code
  local pid code=0 each
  for pid in "${pids[@]}"; do
    each=0
    wait "$pid" 2>/dev/null || each=$?
    if ((each > code)); then code=$each; fi
  done
  pids=()
  return "$code"
}

complete() {  # folder: steps with a manifest, ascending
  local step
  for step in "$1"/checkpoint/step-*/manifest.json; do
    [[ -e $step ]] || continue
    step=${step%/manifest.json}
    step=${step##*/step-}
    if [[ $step =~ ^[0-9]+$ ]]; then echo "$step"; fi
  done | sort -n
}

fail() {  # folder, message
  tail -30 "$1.log" >&2
  echo "kill_test.sh: $2" >&2
  exit 1
}

# Of the runs in this folder, how many have their ranks together.
starts() { cat "$1.log" 2>/dev/null | grep -c 'Training starts at step' || true; }

figures() {  # folder: "step loss norm" of every line of all metrics files
  cat "$1"/metrics*.jsonl | grep -o '"step":[0-9]*,"loss":[^,]*,"grad_norm":[^,]*' | sort -u
}
shards() { cat "$1"/checkpoint/step-60/*.safetensors | sha256sum; }

damage() {  # folder: its newest checkpoint, where there is one before it
  local steps newest shard size
  mapfile -t steps < <(complete "$1")
  ((${#steps[@]} >= 2)) || return 0
  newest=$1/checkpoint/step-${steps[-1]}
  shard=$(find "$newest" -name '*.safetensors' | sort | head -1)
  size=$(stat -c %s "$shard")
  case $((RANDOM % 4)) in
    0) truncate -s $((size / 2)) "$shard" ;;
    1)  # a bit of the last tensors
      local at=$((size - 1 - RANDOM % 20000)) byte
      byte=$(od -An -tu1 -j "$at" -N1 "$shard")
      printf "\\x$(printf %x $((byte ^ 4)))" | dd of="$shard" bs=1 seek="$at" conv=notrunc status=none
      ;;
    2) rm "$newest/manifest.json" ;;
    3) mv "$newest" "$newest.partial" ;;
  esac
  damaged=$((damaged + 1))
  hurt[${1##*/}]=1
}

for mode in "${modes[@]}"; do  # what nobody kills
  start "$mode" "$work/$mode-whole"
  finish || fail "$work/$mode-whole" "the run that nobody kills ended with exit code $?"
done

check() {  # mode, folder: it reached its last step
  diff <(figures "$work/$1-whole") <(figures "$2") >/dev/null ||
    fail "$2" "$1: losses or norms differ: $(diff <(figures "$work/$1-whole") <(figures "$2") | head -4)"
  [[ $(shards "$2") == "$(shards "$work/$1-whole")" ]] || fail "$2" "$1: the last states differ"
  local left
  left=$(find "$2/checkpoint" -mindepth 1 -maxdepth 1 ! -name '*.damaged*' -printf '%f ')
  [[ $(wc -w <<<"$left") -le 4 && $left != *partial* && $left != *deleting* ]] ||
    fail "$2" "$1: what remains is $left"
  finished=$((finished + 1))
  rm -rf "$2" "$2.log"
}

declare -A hurt=()
done_kills=0 damaged=0 finished=0 turn=0
while ((done_kills < kills)); do
  mode=${modes[turn++ % 3]} folder=$work/$mode
  # The last may be the one that was damaged.
  before=$(complete "$folder" | tail -$((1 + ${hurt[$mode]:-0})) | head -1)
  hurt[$mode]=0
  started=$(starts "$folder")
  start "$mode" "$folder"
  # A rank that dies before the ranks have met is waited for until comm.init_timeout_seconds.
  if [[ $mode == ranks ]]; then
    for ((i = 0; i < 400; ++i)); do
      if (($(starts "$folder") > started)) || ! kill -0 "${pids[0]}" 2>/dev/null; then break; fi
      sleep 0.05
    done
  fi
  sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
  case $((RANDOM % 6)) in
    0) signal=TERM ;;
    1) signal=INT ;;
    *) signal=KILL ;;
  esac
  victims=("${pids[@]}")
  [[ $signal == INT ]] || victims=("${pids[RANDOM % ${#pids[@]}]}")
  kill -"$signal" "${victims[@]}" 2>/dev/null || true
  code=0
  finish || code=$?
  done_kills=$((done_kills + 1))
  after=$(complete "$folder" | tail -1)
  ((${after:-0} >= ${before:-0})) || fail "$folder" "$mode: step-$before was there, now ${after:-none}"
  if ((code == 0)); then
    check "$mode" "$folder"
  elif ((RANDOM % 4 == 0)); then
    damage "$folder"
  fi
done
for mode in "${modes[@]}"; do  # to their ends
  [[ -d $work/$mode ]] || continue
  start "$mode" "$work/$mode"
  finish || fail "$work/$mode" "$mode: the last start ended with exit code $?"
  check "$mode" "$work/$mode"
done
echo "kill_test.sh: $done_kills kills, $damaged checkpoints damaged, $finished runs reached their last step: the same bits"
