#!/usr/bin/env bash
# Records what a fixed set of runs computes, to the bit, so that a change that should compute the
# same can be shown to: record before it, record after it, compare.
#
#   scripts/bits.sh record PROGRAM FILE   runs the set with this nereus; FILE gets the figures
#   scripts/bits.sh compare FILE FILE     says what differs; exit code 1 when anything does
#
# The set: configs/tiny.toml for 30 steps with a validation, and a small model of 8 blocks and 8
# experts on one rank, on ranks as threads (every axis, schedules, dispatchers, options of the
# optimizer's states, recompute), on MPI's processes and on processes that meet by sockets. Of each
# run: step, loss, grad_norm, lr, tokens_seen, expert_overflows and validation_loss of every line of
# metrics.jsonl in full precision, and the hash of the last weights. About a minute on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

small=(--model.flavor=671B --training.dataset=random --training.seq_len=16 --training.steps=6
  --training.seed=7 --training.mixed_precision_param=float32 --optimizer.lr=1e-3
  --lr_scheduler.warmup_steps=2 --training.local_batch_size=1 --training.global_batch_size=8
  --checkpoint.enable --checkpoint.last_save_in_hf --checkpoint.interval=1000
  --model_overrides.{vocab_size=64,dim=32,inter_dim=48,moe_inter_dim=16,n_layers=8}
  --model_overrides.{n_dense_layers=3,n_heads=4,num_experts=8,top_k=2,q_lora_rank=16}
  --model_overrides.{kv_lora_rank=16,qk_nope_head_dim=8,qk_rope_head_dim=8,v_head_dim=8}
  --model_overrides.attn_mask_type=causal
  --metrics.log_freq=1 --validation.enable --validation.dataset=random --validation.steps=4
  --validation.local_batch_size=1 --validation.seq_len=16 --validation.freq=3)

p() { printf -- '--parallelism.%s ' "$@"; }
pp() {  # degree, schedule, blocks a stage, more
  p "pipeline_parallel_degree=$1" "pipeline_parallel_schedule=$2" \
    "pipeline_parallel_layers_per_stage=$3" pipeline_parallel_first_stage_less_layers=0 \
    pipeline_parallel_last_stage_less_layers=0 "${@:4}"
  echo "--training.local_batch_size=4"
}

# name | launcher | arguments
runs() {
  cat <<RUNS
one | | --training.local_batch_size=2
one_bf16 | | --training.mixed_precision_param=bfloat16 --optimizer.master_dtype=split --optimizer.moment_dtype=bfloat16
one_full | | --activation_checkpoint.mode=full --training.local_batch_size=2
one_no_q_lora | | --model_overrides.q_lora_rank=0 --activation_checkpoint.mode=none
fsdp4 | --nproc=4 | --activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op
hsdp_never | --nproc=4 | $(p data_parallel_replicate_degree=2 data_parallel_shard_degree=2 fsdp_reshard_after_forward=never)
ep4 | --nproc=4 | $(p expert_parallel_degree=4 expert_dispatcher=host_counts)
ep4_device | --nproc=4 | $(p expert_parallel_degree=4 expert_dispatcher=device)
ep4_reruns | --nproc=4 | $(p expert_parallel_degree=4 expert_receive_bound=1.01)
tp2_ep4 | --nproc=4 | $(p tensor_parallel_degree=2 expert_parallel_degree=4)
cp2 | --nproc=4 | $(p context_parallel_degree=2 expert_parallel_degree=2)
pp2_1f1b | --nproc=4 | $(pp 2 1F1B 4 expert_parallel_degree=2)
pp2_interleaved | --nproc=2 | $(pp 2 Interleaved1F1B 2)
pp2_zbv | --nproc=4 | $(pp 2 ZBVZeroBubble 2)
pp4_dualpipev | --nproc=4 | $(pp 4 DualPipeV 1)
mpi_fsdp_ep | mpi | $(p expert_parallel_degree=2)
mpi_pp2_tp2 | mpi | $(pp 2 1F1B 4 tensor_parallel_degree=2)
sockets_fsdp_ep | sockets | $(p expert_parallel_degree=2)
sockets_cp2_pp2 | sockets | $(pp 2 InterleavedZeroBubble 2 context_parallel_degree=2)
RUNS
}

run_sockets() {  # port, command..
  local rank pids=() failed=0
  for rank in 0 1 2 3; do
    RANK=$rank WORLD_SIZE=4 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 \
      MASTER_PORT=$1 "${@:2}" </dev/null &
    pids+=($!)
  done
  for rank in "${pids[@]}"; do wait "$rank" || failed=1; done
  return $failed
}

figures() {  # name, folder
  local key line value
  while IFS= read -r line; do
    printf '%s' "$1"
    for key in step loss grad_norm lr tokens_seen expert_overflows validation_loss; do
      value=$(grep -oP "\"$key\":\K[^,}]+" <<<"$line" || true)
      [[ -n $value ]] && printf ' %s=%s' "$key" "$value"
    done
    echo
  done <"$2/metrics.jsonl"
  printf '%s weights %s\n' "$1" "$(find "$2" -name '*.safetensors' -print0 | sort -z |
    xargs -0 cat | sha256sum | cut -d' ' -f1)"
}

record() {
  local program out name launcher arguments port=$((20000 + $$ % 20000))
  program=$(realpath "$1")
  out=$(realpath -m "$2")
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  : >"$out"
  "$program" train configs/tiny.toml --training.steps=30 --job.dump_folder="$folder/tiny" \
    --checkpoint.enable --checkpoint.last_save_in_hf >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
  figures tiny "$folder/tiny" >>"$out"
  while IFS='|' read -r name launcher arguments; do
    name=${name// /}
    local command=("$program" train "${small[@]}" --job.dump_folder="$folder/$name")
    # shellcheck disable=SC2206
    command+=($arguments)
    case ${launcher// /} in
      mpi) command=(mpirun --allow-run-as-root --oversubscribe -n 4 "${command[@]}") ;;
      sockets) command=(run_sockets $((++port)) "${command[@]}") ;;
      *) command+=($launcher) ;;
    esac
    if ! "${command[@]}" </dev/null >"$folder/log" 2>&1; then
      echo "bits.sh: $name failed: ${command[*]}" >&2
      tail -20 "$folder/log" >&2
      exit 1
    fi
    figures "$name" "$folder/$name" >>"$out"
  done < <(runs)
  echo "bits.sh: $(grep -c weights "$out") runs, $(wc -l <"$out") lines in $2"
}

case ${1:-}:$# in
  record:3) record "$2" "$3" ;;
  compare:3)
    if diff "$2" "$3"; then
      echo "bits.sh: the same, $(grep -c weights "$2") runs"
    else
      exit 1
    fi
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
