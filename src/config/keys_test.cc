// The keys of the configuration against TorchTitan's schema, written down by hand from its source.
#include "config/keys.h"

#include <gmock/gmock.h>

#include <map>
#include <sstream>

#include "config/load.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// Key, type and default at the pinned commit. model.name is ours (TorchTitan: llama3).
constexpr const char* kTorchTitan = R"(job.config_file | string or None | None
job.dump_folder | string | "./outputs"
job.description | string | "default job"
job.print_config | boolean | false
job.save_config_file | string or None | None
job.custom_config_module | string | ""
profiling.enable_profiling | boolean | false
profiling.save_traces_folder | string | "profile_traces"
profiling.profile_freq | integer | 10
profiling.profiler_active | integer | 1
profiling.profiler_warmup | integer | 3
profiling.enable_memory_snapshot | boolean | false
profiling.save_memory_snapshot_folder | string | "memory_snapshot"
metrics.log_freq | integer | 10
metrics.enable_tensorboard | boolean | false
metrics.disable_color_printing | boolean | false
metrics.save_tb_folder | string | "tb"
metrics.save_for_all_ranks | boolean | false
metrics.enable_wandb | boolean | false
model.name | string | "deepseek_v3"
model.flavor | string | "debugmodel"
model.hf_assets_path | string | "./tests/assets/tokenizer"
model.tokenizer_path | string or None | None
model.converters | list of strings | []
model.print_after_conversion | boolean | false
optimizer.name | string | "AdamW"
optimizer.lr | float | 0.0008
optimizer.beta1 | float | 0.9
optimizer.beta2 | float | 0.95
optimizer.eps | float | 1e-08
optimizer.weight_decay | float | 0.1
optimizer.implementation | string | "fused"
optimizer.early_step_in_backward | boolean | false
lr_scheduler.warmup_steps | integer | 200
lr_scheduler.decay_ratio | float or None | None
lr_scheduler.decay_type | string | "linear"
lr_scheduler.min_lr_factor | float | 0.0
training.dataset | string | "c4_test"
training.dataset_path | string or None | None
training.local_batch_size | integer | 8
training.global_batch_size | integer | -1
training.seq_len | integer | 2048
training.max_norm | float | 1.0
training.steps | integer | 10000
training.enable_cpu_offload | boolean | false
training.dtype | string | "float32"
training.mixed_precision_param | string | "bfloat16"
training.mixed_precision_reduce | string | "float32"
training.gc_freq | integer | 50
training.gc_debug | boolean | false
training.seed | integer or None | None
training.deterministic | boolean | false
training.debug_moe_force_load_balance | boolean | false
parallelism.data_parallel_replicate_degree | integer | 1
parallelism.data_parallel_shard_degree | integer | -1
parallelism.fsdp_reshard_after_forward | string | "default"
parallelism.tensor_parallel_degree | integer | 1
parallelism.disable_loss_parallel | boolean | false
parallelism.enable_async_tensor_parallel | boolean | false
parallelism.pipeline_parallel_degree | integer | 1
parallelism.module_fqns_per_model_part | list of lists of strings or None | None
parallelism.pipeline_parallel_first_stage_less_layers | integer | 1
parallelism.pipeline_parallel_last_stage_less_layers | integer | 1
parallelism.pipeline_parallel_layers_per_stage | integer or None | None
parallelism.pipeline_parallel_schedule | string | "1F1B"
parallelism.pipeline_parallel_schedule_csv | string | ""
parallelism.pipeline_parallel_microbatch_size | integer | 1
parallelism.context_parallel_degree | integer | 1
parallelism.context_parallel_rotate_method | string | "allgather"
parallelism.expert_parallel_degree | integer | 1
parallelism.expert_tensor_parallel_degree | integer | 1
checkpoint.enable | boolean | false
checkpoint.enable_ft_dataloader_checkpoints | boolean | true
checkpoint.folder | string | "checkpoint"
checkpoint.interval | integer | 500
checkpoint.initial_load_path | string or None | None
checkpoint.initial_load_model_only | boolean | true
checkpoint.initial_load_in_hf | boolean | false
checkpoint.initial_load_in_hf_quantized | boolean | false
checkpoint.last_save_model_only | boolean | true
checkpoint.last_save_in_hf | boolean | false
checkpoint.export_dtype | string | "float32"
checkpoint.async_mode | string | "disabled"
checkpoint.keep_latest_k | integer | 10
checkpoint.load_step | integer | -1
checkpoint.exclude_from_loading | list of strings | []
checkpoint.enable_first_step_checkpoint | boolean | false
checkpoint.create_seed_checkpoint | boolean | false
checkpoint.load_only | boolean | false
activation_checkpoint.mode | string | "selective"
activation_checkpoint.selective_ac_option | string | "2"
activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns | list of strings | ["moe.router.gate"]
activation_checkpoint.early_stop | boolean | false
activation_checkpoint.memory_budget | float | 0.5
activation_checkpoint.visualize_memory_budget_pareto | boolean | false
compile.enable | boolean | false
compile.components | list of strings | ["model", "loss"]
compile.backend | string | "inductor"
quantize.linear.float8.enable_fsdp_float8_all_gather | boolean | false
quantize.linear.float8.precompute_float8_dynamic_scale_for_fsdp | boolean | false
quantize.linear.float8.recipe_name | string or None | None
quantize.linear.float8.filter_fqns | list of strings | []
quantize.linear.float8.emulate | boolean | false
quantize.grouped_mm.float8.fqns | list of strings | []
quantize.linear.mx.mxfp8_dim1_cast_kernel_choice | string | "triton"
quantize.linear.mx.recipe_name | string | "mxfp8_cublas"
quantize.linear.mx.filter_fqns | list of strings | ["output"]
quantize.grouped_mm.mx.recipe_name | string | "mxfp8"
quantize.grouped_mm.mx.fqns | list of strings | []
comm.init_timeout_seconds | integer | 300
comm.train_timeout_seconds | integer | 100
comm.trace_buf_size | integer | 20000
comm.save_traces_folder | string | "comm_traces"
comm.save_traces_file_prefix | string | "rank_"
memory_estimation.enable | boolean | false
memory_estimation.disable_fake_mode | boolean | false
fault_tolerance.enable | boolean | false
fault_tolerance.process_group | string | "gloo"
fault_tolerance.process_group_timeout_ms | integer | 10000
fault_tolerance.replica_id | integer | 0
fault_tolerance.group_size | integer | 0
fault_tolerance.min_replica_size | integer | 1
fault_tolerance.semi_sync_method | string or None | None
experimental.custom_import | string | ""
experimental.custom_args_module | string | ""
validation.enable | boolean | false
validation.dataset | string | "c4_validation"
validation.dataset_path | string or None | None
validation.local_batch_size | integer | 8
validation.seq_len | integer | 2048
validation.freq | integer | 10
validation.steps | integer | -1
)";

TEST(Keys, AreTorchTitansWithTheirTypesAndDefaults) {
  JobConfig config;
  std::map<std::string, std::string> ours;
  for (const Key& key : keys(config))
    ours[key.name] = std::string(type_name(key)) + " | " + value_text(key);
  std::istringstream rows(kTorchTitan);
  size_t count = 0;
  for (std::string row; std::getline(rows, row); ++count) {
    const size_t bar = row.find(" | ");
    const std::string name = row.substr(0, bar);
    ASSERT_EQ(ours.count(name), 1u) << name;
    EXPECT_EQ(ours[name], row.substr(bar + 3)) << name;
    ours.erase(name);
  }
  EXPECT_EQ(count, 132u);
  for (const auto& [name, value] : ours)  // what is left is ours, and says so
    EXPECT_TRUE(name.starts_with("model_overrides.") || name.starts_with("numerics.") ||
                name.starts_with("data.") || name.starts_with("cpu.") ||
                name.starts_with("device.") || name == "model.hf_config" ||
                name == "activation_checkpoint.recompute" ||
                name == "activation_checkpoint.keep_attention" ||
                name == "activation_checkpoint.gate_up_every" ||
                name == "parallelism.pipeline_parallel_pending_wgrads" ||
                name == "parallelism.reduce_each_microbatch" ||
                name == "checkpoint.interval_minutes" || name == "checkpoint.keep_every" ||
                name == "checkpoint.verify" || name == "checkpoint.stop_lead_seconds" ||
                name == "job.resume_command" || name == "training.skip_steps" ||
                name == "optimizer.moment_dtype" || name == "optimizer.master_dtype" ||
                name == "optimizer.offload" || name == "parallelism.expert_capacity_factor" ||
                name == "parallelism.expert_dispatcher" || name == "parallelism.expert_overlap" ||
                name == "metrics.histogram_freq" || name == "metrics.grad_norm_by_layer" ||
                name == "metrics.wandb_sync" || name == "metrics.prometheus_port" ||
                name == "metrics.prometheus_address" || name == "training.debug_moe_skew_percent" ||
                name == "profiling.ranks" || name == "model.torchtitan_args")
        << name;
}

TEST(Keys, HaveOneRowEach) {
  JobConfig config;
  std::map<std::string, int> rows;
  for (const Key& key : keys(config)) {
    EXPECT_EQ(++rows[key.name], 1) << key.name;
    if (key.old_name.empty()) continue;
    EXPECT_EQ(++rows[key.old_name], 1) << key.old_name;
    EXPECT_TRUE(key.old_name.starts_with(section_of(key) + ".")) << key.old_name;
    EXPECT_FALSE(key.meaning.empty()) << key.name;
  }
}

TEST(Keys, TheCommittedReferenceIsTheOneTheTableMakes) {
  EXPECT_EQ(test::read_file(test::source_path("docs/configuration.md")), configuration_reference())
      << "remake it: nereus train --config-reference > docs/configuration.md";
}

}  // namespace
}  // namespace nereus
