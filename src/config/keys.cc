#include "config/keys.h"

#include <algorithm>

#include "base/check.h"
#include "config/key_table.h"
#include "config/model_args.h"

namespace nereus {
namespace {

using Table = KeyTable;

void run_keys(Table& t, JobConfig& c) {
  t.section("job");
  t.works("config_file", c.job.config_file, "the TOML file; also the first plain argument");
  t.works("dump_folder", c.job.dump_folder, "root of everything the run writes");
  t.works("description", c.job.description, "text for the log");
  t.works("print_config", c.job.print_config, "log the resolved configuration at the start");
  t.works("save_config_file", c.job.save_config_file,
          "write the resolved configuration to this file in the dump folder");
  t.works("resume_command", c.job.resume_command, "said last by a run that is not finished");
  t.refused("custom_config_module", c.job.custom_config_module, "a Python module of the schema");

  t.section("profiling");
  t.works("enable_profiling", c.profiling.enable_profiling, "write traces");
  t.works("save_traces_folder", c.profiling.save_traces_folder, "folder of the traces");
  t.count("profile_freq", c.profiling.profile_freq, "steps between traces or snapshots");
  t.count("profiler_active", c.profiling.profiler_active, "steps a trace covers");
  t.count("profiler_warmup", c.profiling.profiler_warmup, "recorded before, thrown away", 0);
  t.works("ranks", c.profiling.ranks, "whose: all, stage (one a pipeline rank) or \"0,8\"");
  t.works("enable_memory_snapshot", c.profiling.enable_memory_snapshot, "write memory snapshots");
  t.works("save_memory_snapshot_folder", c.profiling.save_memory_snapshot_folder,
          "folder of the snapshots");

  t.section("metrics");
  t.count("log_freq", c.metrics.log_freq, "steps between logged steps");
  t.works("enable_tensorboard", c.metrics.enable_tensorboard, "write TensorBoard events");
  t.works("disable_color_printing", c.metrics.disable_color_printing,
          "no colours in step lines; they are off without a terminal anyway");
  t.works("save_tb_folder", c.metrics.save_tb_folder,
          "folder of TensorBoard events in the dump folder");
  t.works("save_for_all_ranks", c.metrics.save_for_all_ranks,
          "TensorBoard events of every rank, in rank_N");
  t.works("enable_wandb", c.metrics.enable_wandb,
          "write an offline run of Weights & Biases; its WANDB_* variables hold");
  t.count("histogram_freq", c.metrics.histogram_freq,
          "logged steps between those of which every expert's load is written");
  t.works("grad_norm_by_layer", c.metrics.grad_norm_by_layer,
          "the gradient norm of each layer, for TensorBoard and W&B");
  t.works("wandb_sync", c.metrics.wandb_sync,
          "send the offline run at the end (needs wandb and a key)");
  t.count("prometheus_port", c.metrics.prometheus_port,
          "port on which rank 0 answers Prometheus; 0: none", 0)
      .maximum = 65535;
  t.works("prometheus_address", c.metrics.prometheus_address,
          "address for it; anybody who reaches it can read the run's figures");

  t.section("training");
  t.works("dataset", c.training.dataset, "c4, c4_test, c4_validation, tokens or random: see above");
  t.works("dataset_path", c.training.dataset_path, "folder or file of the data set");
  t.count("local_batch_size", c.training.local_batch_size, "sequences a rank and microbatch");
  t.count("global_batch_size", c.training.global_batch_size,
          "sequences a step; -1: local_batch_size times the data-parallel degree")
      .or_minus_one = true;
  t.count("seq_len", c.training.seq_len, "tokens a sequence");
  t.above("max_norm", c.training.max_norm, "gradients are clipped to this norm; inf: never")
      .highest = std::numeric_limits<double>::infinity();
  t.count("steps", c.training.steps, "steps to train");
  t.refused("enable_cpu_offload", c.training.enable_cpu_offload,
            "parameters and optimizer in host memory");
  t.refused("dtype", c.training.dtype, "type of the masters; bfloat16 keeps no f32 copy")
      .allowed = {"float32", "bfloat16"};
  t.choice("mixed_precision_param", c.training.mixed_precision_param,
           "type of activations and weights in GEMMs", {DType::bf16, DType::f32});
  t.choice("mixed_precision_reduce", c.training.mixed_precision_reduce, "type of gradients",
           {"float32"});
  t.none_from(0, "gc_freq", c.training.gc_freq, "there is no garbage collector");
  t.none("gc_debug", c.training.gc_debug, "there is no garbage collector");
  t.count("seed", c.training.seed, "of initial weights and random data; None: 0", 0).maximum =
      std::numeric_limits<int64_t>::max();
  t.none("deterministic", c.training.deterministic, "runs are always deterministic");
  t.works("debug_moe_force_load_balance", c.training.debug_moe_force_load_balance,
          "round-robin routing, for benchmarks");
  t.count("debug_moe_skew_percent", c.training.debug_moe_skew_percent,
          "round-robin routing of all but so many of 100 tokens, which go to the first top_k "
          "experts, for benchmarks",
          0)
      .maximum = 100;

  t.count("skip_steps", c.training.skip_steps,
          "[a, b]: the data of steps a to b is passed over, and step a is trained on what b + 1 "
          "would have had; after going back before a with checkpoint.load_step");

  t.section("data");
  t.choice("order", c.data.order,
           "which rows make a batch: global (does not depend on ranks) or torchtitan (its per-rank "
           "split and packing)",
           {DataOrder::global, DataOrder::torchtitan});
  t.count("workers", c.data.workers, "threads that read and tokenise").maximum = 1024;
  t.choice("on_broken_shard", c.data.on_broken_shard,
           "a file of the data set that cannot be read: stop (before the first step, or later with "
           "the weights saved) or skip (what is left of it is passed over, with a warning)",
           {BrokenShard::stop, BrokenShard::skip});

  t.section("cpu");
  t.count("threads", c.cpu.threads, "compute threads; 0: as many as cores", 0).maximum = 4096;

  t.section("device");
  t.choice("kind", c.device.kind, "where to train; auto: on a GPU if there is one that can be used",
           {DeviceChoice::automatic, DeviceChoice::cpu, DeviceChoice::cuda});
  t.choice("attention", c.device.attention,
           "whose kernels compute attention in bfloat16 with causal masks on a Hopper GPU (H100, "
           "H200): own, or cudnn (whose deterministic backward pass is slower and needs memory by "
           "the square of the sequence); other GPUs have cuDNN's alone",
           {AttentionChoice::own, AttentionChoice::cudnn});
  t.works("unordered_attention", c.device.unordered_attention,
          "where cuDNN computes attention, its faster backward pass, whose last bits differ from "
          "run to run");
  Key& reserved_sms =
      t.count("reserved_sms", c.device.reserved_sms,
              "with several GPUs, streaming multiprocessors (SMs) that GEMMs leave to "
              "communication; -1: as many as the collectives that run at the same time take",
              0);
  reserved_sms.or_minus_one = true;
  reserved_sms.old_name = "device.reserved_processors";
  t.works(
      "poison_released", c.device.poison_released,
      "for finding faults: memory of activations that is given back is filled with NaN, so that "
      "nothing can read it unnoticed; no bit of a right run changes, steps are slower");

  t.works(
      "gpu_type", c.device.gpu_type,
      "with --dry-run: does the run fit a GPU of this type (h100, h200, b200, gb200)? Empty: of "
      "each");
  t.from("gpu_memory_gib", c.device.gpu_memory_gib,
         "with --dry-run: GiB that CUDA offers on the GPU, over gpu_type's; 0: as the type has");

  t.section("validation");
  t.works("enable", c.validation.enable, "loss on held-out rows before, during and after the run");
  t.works("dataset", c.validation.dataset, "as training.dataset");
  t.works("dataset_path", c.validation.dataset_path, "as training.dataset_path");
  t.count("local_batch_size", c.validation.local_batch_size,
          "sequences a validation step (evaluated training.local_batch_size at a time)");
  t.count("seq_len", c.validation.seq_len, "must be training.seq_len");
  t.count("freq", c.validation.freq, "steps between validations");
  t.count("steps", c.validation.steps, "batches a validation; -1: the whole set").or_minus_one =
      true;
}

void model_keys(Table& t, JobConfig& c) {
  t.section("model");
  t.choice("name", c.model.name, "the family of models", {"deepseek_v3"},
           "TrainSpec {} is not registered.");
  t.choice("flavor", c.model.flavor, "one of TorchTitan's sizes", model_flavors());
  t.works("hf_assets_path", c.model.hf_assets_path, "folder of the tokenizer and of weights");
  t.works("tokenizer_path", c.model.tokenizer_path, "older name of hf_assets_path");
  t.refused("converters", c.model.converters, "low-precision converters");
  t.none("print_after_conversion", c.model.print_after_conversion, "print the converted model");
  t.works("hf_config", c.model.hf_config, "a Hugging Face config.json instead of a flavor");
  t.works("torchtitan_args", c.model.torchtitan_args,
          "a JSON file of TorchTitan's model arguments instead of a flavor");

  auto& o = c.model_overrides;
  t.section("model_overrides");
  const char* same = "over the flavor or file";
  for (const auto& [name, target] :
       std::initializer_list<std::pair<const char*, std::optional<int64_t>*>>{
           {"vocab_size", &o.vocab_size},
           {"dim", &o.dim},
           {"inter_dim", &o.inter_dim},
           {"moe_inter_dim", &o.moe_inter_dim},
           {"n_layers", &o.n_layers},
           {"n_heads", &o.n_heads},
           {"n_expert_groups", &o.n_expert_groups},
           {"n_limited_groups", &o.n_limited_groups},
           {"kv_lora_rank", &o.kv_lora_rank},
           {"qk_nope_head_dim", &o.qk_nope_head_dim},
           {"qk_rope_head_dim", &o.qk_rope_head_dim},
           {"v_head_dim", &o.v_head_dim},
           {"original_seq_len", &o.original_seq_len},
           {"num_experts", &o.num_experts},
           {"top_k", &o.top_k}})
    t.count(name, *target, same);
  t.count("n_dense_layers", o.n_dense_layers, same, 0);
  t.count("q_lora_rank", o.q_lora_rank, "over the flavor or file; 0: q by one projection", 0);
  t.count("num_shared_experts", o.num_shared_experts, same, 0);
  for (const auto& [name, target] :
       std::initializer_list<std::pair<const char*, std::optional<double>*>>{
           {"norm_eps", &o.norm_eps},
           {"rope_factor", &o.rope_factor},
           {"beta_fast", &o.beta_fast},
           {"beta_slow", &o.beta_slow},
           {"mscale", &o.mscale},
           {"route_scale", &o.route_scale}})
    t.above(name, *target, same);
  t.above("rope_theta", o.rope_theta, same, 1);
  t.from("load_balance_coeff", o.load_balance_coeff, "over the flavor or file; 0: no balancing");
  t.works("use_flex_attn", o.use_flex_attn,
          "over the flavor or file; false: the mask is causal, as TorchTitan's is without "
          "FlexAttention");
  t.works("route_norm", o.route_norm, same);
  t.works("score_before_experts", o.score_before_experts, same);
  t.choice("attn_mask_type", o.attn_mask_type, same, {MaskType::causal, MaskType::block_causal});
  t.choice("score_func", o.score_func, same, {ScoreFunction::sigmoid, ScoreFunction::softmax});

  t.section("numerics");
  t.choice("family", c.numerics.family,
           "whose arithmetic is followed where the references differ; None: huggingface with "
           "model.hf_config, else torchtitan",
           {NumericsFamily::torchtitan, NumericsFamily::huggingface});

  t.section("optimizer");
  t.choice("name", c.optimizer.name, "Adam's weight decay goes into the gradient",
           {OptimizerName::adam, OptimizerName::adamw}, "Optimizer {} not added.");
  t.above("lr", c.optimizer.lr, "learning rate");
  for (auto* beta : {&t.from("beta1", c.optimizer.beta1, "decay of the first moment"),
                     &t.from("beta2", c.optimizer.beta2, "decay of the second moment")}) {
    beta->highest = 1;
    beta->below_highest = true;
  }
  t.above("eps", c.optimizer.eps, "added to the root of the second moment");
  t.from("weight_decay", c.optimizer.weight_decay, "of every parameter");
  t.choice("moment_dtype", c.optimizer.moment_dtype,
           "type of the two moments; bfloat16 halves their memory", {DType::f32, DType::bf16});
  t.choice(
      "master_dtype", c.optimizer.master_dtype,
      "split: f32 masters are kept as the bf16 copies and the 16 bits that those lack, the same "
      "values in 2 bytes less a parameter",
      {MasterType::float32, MasterType::split});
  t.choice("offload", c.optimizer.offload,
           "on a GPU: what lives in host memory and passes through the device during the update, "
           "the two moments or, with the masters, all states (moments, states); on the CPU it has "
           "nothing to act on",
           {Offload::none, Offload::moments, Offload::states});
  t.none("implementation", c.optimizer.implementation, "there is one").allowed = {
      "for-loop", "foreach", "fused"};
  t.refused("early_step_in_backward", c.optimizer.early_step_in_backward,
            "update each parameter in the backward pass");

  t.section("lr_scheduler");
  t.count("warmup_steps", c.lr_scheduler.warmup_steps, "linear warm-up", 0);
  t.from("decay_ratio", c.lr_scheduler.decay_ratio,
         "part of the steps that decay; None: all after the warm-up")
      .highest = 1;
  t.choice("decay_type", c.lr_scheduler.decay_type, "shape of the decay",
           {LrDecay::linear, LrDecay::sqrt, LrDecay::cosine});
  t.from("min_lr_factor", c.lr_scheduler.min_lr_factor, "the decay's end, times lr").highest = 1;

  t.section("activation_checkpoint");
  t.choice("mode", c.activation_checkpoint.mode, "what the backward pass computes again",
           {RecomputeMode::selective, RecomputeMode::full, RecomputeMode::none,
            RecomputeMode::memory_budget},
           "Invalid AC mode: {}. Valid modes: ('full', 'selective')");
  t.works("selective_ac_option", c.activation_checkpoint.selective_ac_option,
          "op: what `recompute` names; n: every n-th block whole (0: every block)");
  t.choice(
      "recompute", c.activation_checkpoint.recompute,
      "of option op: norms (block norms), mla_up (q, k and v from the latents), assembly (k from "
      "its parts), swiglu, dispatch (the experts' rows), gate_up (what the gated units read)",
      {RecomputePart::norms, RecomputePart::mla_up, RecomputePart::assembly, RecomputePart::swiglu,
       RecomputePart::dispatch, RecomputePart::gate_up});
  t.works("keep_attention", c.activation_checkpoint.keep_attention,
          "of blocks that are computed again whole (mode full, selective_ac_option n): attention's "
          "outputs and statistics are kept, and attention is not computed again");
  t.count("gate_up_every", c.activation_checkpoint.gate_up_every,
          "of recompute's gate_up: in every n-th block");
  t.none("per_op_sac_force_recompute_mm_shapes_by_fqns",
         c.activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns,
         "routing is never computed again");
  t.none("early_stop", c.activation_checkpoint.early_stop,
         "a replay always stops at what the backward pass needs");
  t.none("memory_budget", c.activation_checkpoint.memory_budget, "of mode memory_budget");
  t.none("visualize_memory_budget_pareto", c.activation_checkpoint.visualize_memory_budget_pareto,
         "of mode memory_budget");

  t.section("checkpoint");
  auto& k = c.checkpoint;
  t.works("enable", k.enable, "save checkpoints, and go on from the newest");
  t.none("enable_ft_dataloader_checkpoints", k.enable_ft_dataloader_checkpoints, "of TorchFT");
  t.works("folder", k.folder, "under the dump folder");
  t.count("interval", k.interval, "steps between saves");
  t.from("interval_minutes", k.interval_minutes, "and at most so long after the last; 0: no limit");
  t.from("stop_lead_seconds", k.stop_lead_seconds, "a save that takes longer is warned of; 0: no");
  t.works("initial_load_path", k.initial_load_path,
          "what a run without checkpoints of its own starts from: a step's folder, or weights of "
          "Hugging Face's");
  t.works("initial_load_model_only", k.initial_load_model_only, "false: the run goes on there");
  t.works("initial_load_in_hf", k.initial_load_in_hf, "initial_load_path is Hugging Face's");
  t.works("initial_load_in_hf_quantized", k.initial_load_in_hf_quantized,
          "and quantised; recognised in any case");
  t.works("last_save_model_only", k.last_save_model_only,
          "the last save has weights only: no run can go on from it");
  t.works("last_save_in_hf", k.last_save_in_hf, "and is in Hugging Face's format");
  t.choice("export_dtype", k.export_dtype, "type of a last save of weights only",
           {DType::f16, DType::bf16, DType::f32});
  t.choice("async_mode", k.async_mode,
           "saves in the step, or from a copy in host memory (on a GPU always pinned) beside steps",
           {"disabled", "async", "async_with_pinned_mem"});
  t.works("verify", k.verify, "read each file back once it is on the disk, and compare checksums");
  t.count("keep_latest_k", k.keep_latest_k, "checkpoints that are kept; 0: all", 0);
  t.count("keep_every", k.keep_every, "multiples of it are never deleted; 0: none are", 0);
  t.count("load_step", k.load_step, "the step to go on from; later ones are set aside", 0)
      .or_minus_one = true;
  t.works("exclude_from_loading", k.exclude_from_loading, "parts that begin anew").allowed = {
      "model", "optimizer", "lr_scheduler", "dataloader", "train_state"};
  t.works("enable_first_step_checkpoint", k.enable_first_step_checkpoint, "save after step 1");
  t.works("create_seed_checkpoint", k.create_seed_checkpoint,
          "save the initial weights as step 0 and stop; no layout needs it");
  t.works("load_only", k.load_only, "never save");
}

void system_keys(Table& t, JobConfig& c) {
  auto& p = c.parallelism;
  t.section("parallelism");
  const auto degree = [&](const char* name, int64_t& target, const char* meaning) -> Key& {
    Key& key = t.count(name, target, meaning);
    key.sentence = "Parallelism degree should be >= 1, except for dp_shard";
    return key;
  };
  degree("data_parallel_replicate_degree", p.data_parallel_replicate_degree, "replicas");
  Key& shard = t.count("data_parallel_shard_degree", p.data_parallel_shard_degree,
                       "shards; -1: what the other degrees leave of the world");
  shard.or_minus_one = true;
  shard.sentence = "dp_shard must -1 or >=1.";
  t.choice("fsdp_reshard_after_forward", p.fsdp_reshard_after_forward,
           "weights and gradients are whole a block at a time (always) or all for the step "
           "(never); default: always, but never with pipelines",
           {ReshardPolicy::automatic, ReshardPolicy::always, ReshardPolicy::never},
           "Invalid reshard_after_forward_policy: {}.");
  degree("tensor_parallel_degree", p.tensor_parallel_degree, "tensor parallelism");
  t.none("disable_loss_parallel", p.disable_loss_parallel, "of tensor parallelism");
  t.none("enable_async_tensor_parallel", p.enable_async_tensor_parallel, "of tensor parallelism");
  degree("pipeline_parallel_degree", p.pipeline_parallel_degree, "pipeline stages");
  t.works("module_fqns_per_model_part", p.module_fqns_per_model_part,
          "modules of each stage, by name");
  t.count("pipeline_parallel_first_stage_less_layers", p.pipeline_parallel_first_stage_less_layers,
          "layers that the embedding counts as", 0);
  t.count("pipeline_parallel_last_stage_less_layers", p.pipeline_parallel_last_stage_less_layers,
          "layers that the head counts as", 0);
  t.count("pipeline_parallel_layers_per_stage", p.pipeline_parallel_layers_per_stage,
          "layers of a stage; by default as many stages as the schedule needs");
  Key& schedule = t.works("pipeline_parallel_schedule", p.pipeline_parallel_schedule,
                          "order of a pipeline's work; `nereus plan` draws it");
  schedule.allowed = {"1F1B",      "Interleaved1F1B",       "GPipe",
                      "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble",
                      "DualPipeV"};
  schedule.any_case = true;
  schedule.sentence = "Unknown schedule name '{}'.";
  t.works("pipeline_parallel_schedule_csv", p.pipeline_parallel_schedule_csv,
          "a schedule as a table of actions, in place of one by name");
  t.count("pipeline_parallel_microbatch_size", p.pipeline_parallel_microbatch_size,
          "sequences of a pipeline's microbatch");
  t.count(
       "pipeline_parallel_pending_wgrads", p.pipeline_parallel_pending_wgrads,
       "of schedules with dgrad and wgrad apart: how many wgrads of a rank may wait at once, each "
       "with what it will read; fewer take less memory and leave more of the bubble; -1: as many "
       "as the schedule has")
      .or_minus_one = true;
  t.works("reduce_each_microbatch", p.reduce_each_microbatch,
          "of pipelines: gradients are reduced after every microbatch instead of once a step, so "
          "that two blocks' are unsharded instead of all; not with dgrad and wgrad apart");
  degree("context_parallel_degree", p.context_parallel_degree, "context parallelism");
  t.none("context_parallel_rotate_method", p.context_parallel_rotate_method,
         "of context parallelism")
      .allowed = {"allgather", "alltoall"};
  degree("expert_parallel_degree", p.expert_parallel_degree, "expert parallelism");
  degree("expert_tensor_parallel_degree", p.expert_tensor_parallel_degree,
         "tensor parallelism of experts");
  t.from("expert_capacity_factor", p.expert_capacity_factor,
         "expert capacity: rows of a microbatch that a rank's experts can receive, over those that "
         "the rank sends (1: even routing); a step that needs more grows the capacity and runs "
         "again; 0: enough for any routing")
      .old_name = "parallelism.expert_receive_bound";
  t.choice(
      "expert_dispatcher", p.expert_dispatcher,
      "how rows get to other ranks' experts: device (into each other's memory, the host waits "
      "for nothing), host_counts (all-to-all; the host reads the counts), auto (device between "
      "GPUs that see each other's memory)",
      {ExpertDispatcher::automatic, ExpertDispatcher::device, ExpertDispatcher::host_counts});
  t.works("expert_overlap", p.expert_overlap,
          "with the device dispatcher on GPUs, rows are exchanged on a stream of their own, "
          "concurrently with shared experts and weight gradients");

  t.section("compile");
  t.none("enable", c.compile.enable, "kernels are compiled beforehand");
  t.none("components", c.compile.components, "kernels are compiled beforehand").allowed = {"model",
                                                                                           "loss"};
  t.none("backend", c.compile.backend, "kernels are compiled beforehand");

  const char* of_converters = "of model.converters";
  auto& lf = c.quantize.linear.float8;
  t.section("quantize.linear.float8");
  t.none("enable_fsdp_float8_all_gather", lf.enable_fsdp_float8_all_gather, of_converters);
  t.none("precompute_float8_dynamic_scale_for_fsdp", lf.precompute_float8_dynamic_scale_for_fsdp,
         of_converters);
  t.none("recipe_name", lf.recipe_name, of_converters).allowed = {"tensorwise", "rowwise",
                                                                  "rowwise_with_gw_hp"};
  t.none("filter_fqns", lf.filter_fqns, of_converters);
  t.none("emulate", lf.emulate, of_converters);
  t.section("quantize.linear.mx");
  t.none("mxfp8_dim1_cast_kernel_choice", c.quantize.linear.mx.mxfp8_dim1_cast_kernel_choice,
         of_converters)
      .allowed = {"triton", "cuda", "torch"};
  t.none("recipe_name", c.quantize.linear.mx.recipe_name, of_converters);
  t.none("filter_fqns", c.quantize.linear.mx.filter_fqns, of_converters);
  t.section("quantize.grouped_mm.float8");
  t.none("fqns", c.quantize.grouped_mm.float8.fqns, of_converters);
  t.section("quantize.grouped_mm.mx");
  t.none("recipe_name", c.quantize.grouped_mm.mx.recipe_name, of_converters).allowed = {"mxfp8"};
  t.none("fqns", c.quantize.grouped_mm.mx.fqns, of_converters);

  t.section("comm");
  t.count("init_timeout_seconds", c.comm.init_timeout_seconds, "of collectives, first step");
  t.count("train_timeout_seconds", c.comm.train_timeout_seconds, "of collectives, later");
  t.none_from(0, "trace_buf_size", c.comm.trace_buf_size, "of the flight recorder");
  t.none("save_traces_folder", c.comm.save_traces_folder, "of the flight recorder");
  t.none("save_traces_file_prefix", c.comm.save_traces_file_prefix, "of the flight recorder");

  t.section("memory_estimation");
  t.refused("enable", c.memory_estimation.enable, "use nereus train --dry-run");
  t.none("disable_fake_mode", c.memory_estimation.disable_fake_mode, "of memory_estimation");

  auto& f = c.fault_tolerance;
  t.section("fault_tolerance");
  t.refused("enable", f.enable, "TorchFT");
  t.none("process_group", f.process_group, "of TorchFT");
  t.none_from(1, "process_group_timeout_ms", f.process_group_timeout_ms, "of TorchFT");
  t.none_from(0, "replica_id", f.replica_id, "of TorchFT");
  t.none_from(0, "group_size", f.group_size, "of TorchFT");
  t.none_from(1, "min_replica_size", f.min_replica_size, "of TorchFT");
  t.refused("semi_sync_method", f.semi_sync_method, "of TorchFT");

  t.section("experimental");
  t.refused("custom_import", c.experimental.custom_import, "a Python module to import");
  t.refused("custom_args_module", c.experimental.custom_args_module, "a Python module");
}

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string text(bool x) { return x ? "true" : "false"; }
std::string text(int64_t x) { return std::to_string(x); }
std::string text(double x) {
  std::string s = fmt::format("{}", x);
  if (s.find_first_of(".eni") == std::string::npos) s += ".0";
  return s;
}
std::string text(const std::string& x) { return quoted(x); }
template <class T>
std::string text(const std::vector<T>& list) {
  std::string out = "[";
  for (size_t i = 0; i < list.size(); ++i) out += (i > 0 ? ", " : "") + text(list[i]);
  return out + "]";
}
template <class T>
std::string text(const std::optional<T>& x) {
  return x ? text(*x) : "None";
}
std::string text(const Choice& choice) {
  const Strings words = choice.get();
  if (choice.form == Choice::Form::list) return text(words);
  return words.empty() ? "None" : text(words.front());
}
template <class T>
std::string text(T* target) {
  return text(*target);
}

}  // namespace

std::vector<Key> keys(JobConfig& config) {
  std::vector<Key> all;
  all.reserve(256);
  Table table(all);
  run_keys(table, config);
  model_keys(table, config);
  system_keys(table, config);
  return all;
}

const Key* find_key(const std::vector<Key>& all, const std::string& name) {
  const auto key = std::find_if(all.begin(), all.end(), [&](const Key& k) {
    return k.name == name || (k.old_name == name && !name.empty());
  });
  return key == all.end() ? nullptr : &*key;
}

std::string renamed_notice(const Key& key, const std::string& where) {
  return fmt::format("{}: {} is now {}; the old name is accepted too", where, key.old_name,
                     key.name);
}

void fail_both_names(const Key& key, const std::string& where) {
  NEREUS_FAIL(kConfig, "{}: {} is the old name of {}, which is given too: keep {}", where,
              key.old_name, key.name, key.name);
}

const char* type_name(const Key& key) {
  constexpr const char* kNames[] = {"boolean",         "integer",
                                    "float",           "string",
                                    "list of strings", "boolean or None",
                                    "integer or None", "float or None",
                                    "string or None",  "list of lists of strings or None",
                                    "list of integers"};
  const auto* choice = std::get_if<Choice>(&key.target);
  if (choice == nullptr) return kNames[key.target.index()];
  switch (choice->form) {
    case Choice::Form::one:
      return "string";
    case Choice::Form::optional:
      return "string or None";
    case Choice::Form::list:
      return "list of strings";
  }
  return "";
}

std::string value_text(const Key& key) {
  return std::visit([](const auto& target) { return text(target); }, key.target);
}

std::string section_of(const Key& key) { return key.name.substr(0, key.name.rfind('.')); }
std::string last_name_of(const Key& key) { return key.name.substr(key.name.rfind('.') + 1); }

}  // namespace nereus
