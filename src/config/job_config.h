// The configuration of a run: TorchTitan's sections and keys under their own names, with our
// additions, as one struct a table. Defaults are TorchTitan's at the pinned commit but for
// model.name. docs/configuration.md lists every key and what becomes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/choices.h"

namespace nereus {

using Strings = std::vector<std::string>;
using Integers = std::vector<int64_t>;

struct JobConfig {
  struct Job {
    std::optional<std::string> config_file;
    std::string dump_folder = "./outputs";
    std::string description = "default job";
    bool print_config = false;
    std::optional<std::string> save_config_file;
    std::string resume_command;  // ours: for the last line of a run that is not finished
    std::string custom_config_module;
  } job;

  struct Profiling {
    bool enable_profiling = false;
    std::string save_traces_folder = "profile_traces";
    int64_t profile_freq = 10, profiler_active = 1, profiler_warmup = 3;
    std::string ranks = "all";  // ours: whose traces and snapshots are written
    bool enable_memory_snapshot = false;
    std::string save_memory_snapshot_folder = "memory_snapshot";
  } profiling;

  struct Metrics {
    int64_t log_freq = 10;
    bool enable_tensorboard = false;
    bool disable_color_printing = false;
    std::string save_tb_folder = "tb";
    bool save_for_all_ranks = false;
    bool enable_wandb = false;
    // Ours.
    int64_t histogram_freq = 100;  // logged steps between those with every expert's load
    bool grad_norm_by_layer = false;
    bool wandb_sync = false;
    int64_t prometheus_port = 0;  // 0: none
    std::string prometheus_address = "127.0.0.1";
  } metrics;

  struct Model {
    std::string name = "deepseek_v3";
    std::string flavor = "debugmodel";
    std::string hf_assets_path = "./tests/assets/tokenizer";
    std::optional<std::string> tokenizer_path;
    Strings converters;
    bool print_after_conversion = false;
    std::optional<std::string> hf_config;        // ours: a config.json instead of a flavor
    std::optional<std::string> torchtitan_args;  // ours: a torchtitan_args.json likewise
  } model;

  // Ours: any argument of the model, over the flavor or file.
  struct ModelOverrides {
    std::optional<int64_t> vocab_size, dim, inter_dim, moe_inter_dim, n_layers, n_dense_layers,
        n_heads, n_expert_groups, n_limited_groups, q_lora_rank, kv_lora_rank, qk_nope_head_dim,
        qk_rope_head_dim, v_head_dim, original_seq_len, num_experts, num_shared_experts, top_k;
    std::optional<double> norm_eps, rope_theta, rope_factor, beta_fast, beta_slow, mscale,
        route_scale, load_balance_coeff;
    std::optional<bool> use_flex_attn, route_norm, score_before_experts;
    std::optional<MaskType> attn_mask_type;
    std::optional<ScoreFunction> score_func;
  } model_overrides;

  struct Numerics {
    std::optional<NumericsFamily> family;
  } numerics;

  struct Optimizer {
    OptimizerName name = OptimizerName::adamw;
    double lr = 8e-4, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    std::string implementation = "fused";
    bool early_step_in_backward = false;
    DType moment_dtype = DType::f32;
    MasterType master_dtype = MasterType::float32;
    Offload offload = Offload::none;
  } optimizer;

  struct LrScheduler {
    int64_t warmup_steps = 200;
    std::optional<double> decay_ratio;
    LrDecay decay_type = LrDecay::linear;
    double min_lr_factor = 0.0;
  } lr_scheduler;

  struct Training {
    std::string dataset = "c4_test";
    std::optional<std::string> dataset_path;
    int64_t local_batch_size = 8, global_batch_size = -1, seq_len = 2048;
    double max_norm = 1.0;
    int64_t steps = 10000;
    bool enable_cpu_offload = false;
    std::string dtype = "float32";
    DType mixed_precision_param = DType::bf16;
    std::string mixed_precision_reduce = "float32";
    int64_t gc_freq = 50;
    bool gc_debug = false;
    std::optional<int64_t> seed;
    bool deterministic = false;
    bool debug_moe_force_load_balance = false;
    int64_t debug_moe_skew_percent = 0;  // ours
    Integers skip_steps;                 // ours: the first and the last step whose data is not used
  } training;

  // Ours.
  struct Data {
    DataOrder order = DataOrder::global;
    BrokenShard on_broken_shard = BrokenShard::stop;
    int64_t workers = 1;  // threads that read and tokenise
  } data;

  // Ours.
  struct Cpu {
    int64_t threads = 0;  // compute threads; 0: as many as cores
  } cpu;
  struct Device {
    // automatic: a GPU when the program was built for one and finds one
    DeviceChoice kind = DeviceChoice::automatic;
    AttentionChoice attention = AttentionChoice::own;
    bool unordered_attention = false;  // of cuDNN's backward passes the faster: other bits each run
    int64_t reserved_sms = -1;         // SMs that GEMMs leave to communication
    bool poison_released = false;      // activations' memory is overwritten when it is given back
    std::string gpu_type;              // of --dry-run's last lines
    double gpu_memory_gib = 0;         // likewise; 0: as the type has
  } device;

  struct Parallelism {
    int64_t data_parallel_replicate_degree = 1, data_parallel_shard_degree = -1;
    ReshardPolicy fsdp_reshard_after_forward = ReshardPolicy::automatic;
    int64_t tensor_parallel_degree = 1;
    bool disable_loss_parallel = false, enable_async_tensor_parallel = false;
    int64_t pipeline_parallel_degree = 1;
    std::optional<std::vector<Strings>> module_fqns_per_model_part;
    int64_t pipeline_parallel_first_stage_less_layers = 1;
    int64_t pipeline_parallel_last_stage_less_layers = 1;
    std::optional<int64_t> pipeline_parallel_layers_per_stage;
    std::string pipeline_parallel_schedule = "1F1B";
    std::string pipeline_parallel_schedule_csv;
    int64_t pipeline_parallel_microbatch_size = 1;
    int64_t pipeline_parallel_pending_wgrads = -1;  // ours; -1: as many as the schedule has
    bool reduce_each_microbatch = false;            // ours
    int64_t context_parallel_degree = 1;
    std::string context_parallel_rotate_method = "allgather";
    int64_t expert_parallel_degree = 1, expert_tensor_parallel_degree = 1;
    double expert_capacity_factor = 1.25;
    ExpertDispatcher expert_dispatcher = ExpertDispatcher::automatic;
    bool expert_overlap = false;
  } parallelism;

  struct Checkpoint {
    bool enable = false;
    bool enable_ft_dataloader_checkpoints = true;
    std::string folder = "checkpoint";
    int64_t interval = 500;
    std::optional<std::string> initial_load_path;
    bool initial_load_model_only = true, initial_load_in_hf = false,
         initial_load_in_hf_quantized = false;
    bool last_save_model_only = true, last_save_in_hf = false;
    DType export_dtype = DType::f32;
    std::string async_mode = "disabled";
    int64_t keep_latest_k = 10, load_step = -1;
    int64_t keep_every = 0;        // ours: steps that are never deleted
    double interval_minutes = 0;   // ours: in addition to `interval`
    double stop_lead_seconds = 0;  // ours: from the signal to stop to the end; 0: not known
    bool verify = false;           // ours: what was written is read back
    Strings exclude_from_loading;
    bool enable_first_step_checkpoint = false, create_seed_checkpoint = false, load_only = false;
  } checkpoint;

  struct ActivationCheckpoint {
    RecomputeMode mode = RecomputeMode::selective;
    std::string selective_ac_option = "2";
    // ours: of option op
    std::vector<RecomputePart> recompute = {RecomputePart::norms, RecomputePart::mla_up,
                                            RecomputePart::swiglu, RecomputePart::dispatch};
    bool keep_attention = false;  // ours: of blocks that are computed again whole
    int64_t gate_up_every = 1;    // ours: gate_up of every n-th block
    Strings per_op_sac_force_recompute_mm_shapes_by_fqns = {"moe.router.gate"};
    bool early_stop = false;
    double memory_budget = 0.5;
    bool visualize_memory_budget_pareto = false;
  } activation_checkpoint;

  struct Compile {
    bool enable = false;
    Strings components = {"model", "loss"};
    std::string backend = "inductor";
  } compile;

  struct Quantize {
    struct Linear {
      struct Float8 {
        bool enable_fsdp_float8_all_gather = false;
        bool precompute_float8_dynamic_scale_for_fsdp = false;
        std::optional<std::string> recipe_name;
        Strings filter_fqns;
        bool emulate = false;
      } float8;
      struct Mx {
        std::string mxfp8_dim1_cast_kernel_choice = "triton";
        std::string recipe_name = "mxfp8_cublas";
        Strings filter_fqns = {"output"};
      } mx;
    } linear;
    struct GroupedMm {
      struct Float8 {
        Strings fqns;
      } float8;
      struct Mx {
        std::string recipe_name = "mxfp8";
        Strings fqns;
      } mx;
    } grouped_mm;
  } quantize;

  struct Comm {
    int64_t init_timeout_seconds = 300, train_timeout_seconds = 100, trace_buf_size = 20000;
    std::string save_traces_folder = "comm_traces", save_traces_file_prefix = "rank_";
  } comm;

  struct MemoryEstimation {
    bool enable = false, disable_fake_mode = false;
  } memory_estimation;

  struct FaultTolerance {
    bool enable = false;
    std::string process_group = "gloo";
    int64_t process_group_timeout_ms = 10000, replica_id = 0, group_size = 0, min_replica_size = 1;
    std::optional<std::string> semi_sync_method;
  } fault_tolerance;

  struct Experimental {
    std::string custom_import, custom_args_module;
  } experimental;

  struct Validation {
    bool enable = false;
    std::string dataset = "c4_validation";
    std::optional<std::string> dataset_path;
    int64_t local_batch_size = 8, seq_len = 2048, freq = 10, steps = -1;
  } validation;

  // Sequences a step, over all ranks.
  int64_t global_batch(int64_t dp_degree) const {
    return training.global_batch_size < 0 ? training.local_batch_size * dp_degree
                                          : training.global_batch_size;
  }
};

}  // namespace nereus
