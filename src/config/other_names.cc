#include "config/other_names.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/suggest.h"

namespace nereus {
namespace {

constexpr std::string_view kAlways = "it is always so here; remove it";
constexpr std::string_view kTokens =
    "which counts sequences: so many tokens divided by training.seq_len";

constexpr OtherName kNames[] = {
    // Before October 2025.
    {"job.print_args", "job.print_config"},
    {"job.use_for_integration_test", "", "nothing here depends on it; remove it"},
    {"checkpoint.enable_checkpoint", "checkpoint.enable"},
    {"checkpoint.model_weights_only", "checkpoint.last_save_model_only"},
    {"checkpoint.last_save_model_weights_only", "checkpoint.last_save_model_only"},
    {"checkpoint.initial_load_model_weights_only", "checkpoint.initial_load_model_only"},
    {"checkpoint.interval_type", "", "intervals are numbers of steps; remove it"},
    {"model.norm_type", "", "the norm is always rmsnorm here; remove it"},
    {"lr_scheduler.lr_min", "lr_scheduler.min_lr_factor"},
    {"float8.moe_fqns_prototype", "quantize.grouped_mm.float8.fqns"},
    {"float8.enable_float8_linear", "model.converters", "with \"quantize.linear.float8\" in it"},
    {"float8", "quantize.linear.float8"},
    {"mx.moe_fqns_prototype", "quantize.grouped_mm.mx.fqns"},
    {"mx", "quantize.linear.mx"},
    {"quantize.dense", "quantize.linear"},
    {"quantize.moe", "quantize.grouped_mm"},
    {"optimizer.fused", "optimizer.implementation", "\"fused\" or \"foreach\""},
    {"metrics.rank_0_only", "metrics.save_for_all_ranks", "which says the opposite"},
    {"metrics.enable_color_printing", "metrics.disable_color_printing", "which says the opposite"},
    {"model.use_flex_attn", "model_overrides.use_flex_attn"},
    {"model.attn_mask_type", "model_overrides.attn_mask_type"},
    {"training.batch_size", "training.local_batch_size"},
    {"training.compile", "compile.enable"},
    {"training.data_parallel_degree", "parallelism.data_parallel_shard_degree"},
    {"training.data_parallel_shard_degree", "parallelism.data_parallel_shard_degree"},
    {"training.data_parallel_replicate_degree", "parallelism.data_parallel_replicate_degree"},
    {"training.tensor_parallel_degree", "parallelism.tensor_parallel_degree"},
    {"training.enable_loss_parallel", "parallelism.disable_loss_parallel",
     "which says the opposite"},
    {"parallelism.pipeline_parallel_split_points", "parallelism.module_fqns_per_model_part"},
    {"parallelism.pipeline_parallel_microbatches", "parallelism.pipeline_parallel_microbatch_size",
     "training.local_batch_size divided by so many"},
    {"parallelism.enable_compiled_autograd", "", "kernels are compiled beforehand; remove it"},
    {"experimental.pipeline_parallel_split_points", "parallelism.module_fqns_per_model_part"},
    {"experimental.pipeline_parallel_microbatches", "parallelism.pipeline_parallel_microbatch_size",
     "training.local_batch_size divided by so many"},
    {"experimental.custom_model_path", "experimental.custom_import"},
    // Since then.
    {"debug.seed", "training.seed"},
    {"debug.deterministic", "training.deterministic"},
    {"debug.moe_force_load_balance", "training.debug_moe_force_load_balance"},
    {"debug.print_config", "job.print_config"},
    {"debug.save_config_file", "job.save_config_file"},
    {"debug.detect_anomaly", "", "a step that is not finite ends the run here; remove it"},
    {"debug.batch_invariant", "", kAlways},
    {"debug.enable_structured_logging", "", "metrics.jsonl is always written; remove it"},
    {"dataloader.dataset", "training.dataset"},
    {"dataloader.dataset_path", "training.dataset_path"},
    {"training.num_tokens_per_microbatch_per_dp_rank", "training.local_batch_size",
     "which counts sequences: so many tokens divided by training.seq_len and, with a pipeline, "
     "times its microbatches (num_pp_microbatches)"},
    {"training.num_tokens_per_train_step", "training.global_batch_size", kTokens},
    {"training.max_context_length", "training.seq_len"},
    {"parallelism.num_pp_microbatches", "parallelism.pipeline_parallel_microbatch_size",
     "training.local_batch_size divided by so many"},
    {"parallelism.enable_sequence_parallel", "", kAlways},
    {"parallelism.context_parallel_load_balancer", "",
     "sequences are always divided head and tail (\"headtail\") here; remove it"},
    {"parallelism.expert_parallel_comm_backend", "parallelism.expert_dispatcher",
     "device or host_counts"},
    {"parallelism.hybridep.moe_expert_capacity_factor", "parallelism.expert_capacity_factor"},
    {"compile.enable_async_tensor_parallel", "parallelism.enable_async_tensor_parallel"},
    {"module", "", "a model's configuration is a TOML file here, the first argument; see configs/"},
    {"config", "", "a model's configuration is a TOML file here, the first argument; see configs/"},
};

const OtherName* find_other(std::string_view name) {
  for (const OtherName& n : kNames)
    if (n.theirs == name) return &n;
  return nullptr;
}

bool is_key(const std::vector<Key>& keys, const std::string& name) {
  return std::any_of(keys.begin(), keys.end(), [&](const Key& k) { return k.name == name; });
}

std::string called(std::string_view here, bool is_section, bool option) {
  return option       ? fmt::format("--{}", here)
         : is_section ? fmt::format("[{}]", here)
                      : std::string(here);
}

}  // namespace

std::span<const OtherName> other_names() { return kNames; }

bool is_other_name(std::string_view name) {
  for (;;) {
    if (find_other(name) != nullptr) return true;
    const size_t dot = name.rfind('.');
    if (dot == std::string_view::npos) return false;
    name = name.substr(0, dot);
  }
}

std::string other_name_advice(const std::vector<Key>& keys, const std::string& name, bool option) {
  if (const OtherName* n = find_other(name)) {
    if (n->here.empty()) return fmt::format("; {}", n->note);
    const bool section = !is_key(keys, std::string(n->here));
    return fmt::format("; here it is called {}{}{}", called(n->here, section, option),
                       n->note.empty() ? "" : ", ", n->note);
  }
  for (size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0;
       dot = name.rfind('.', dot - 1)) {
    const OtherName* n = find_other(std::string_view(name).substr(0, dot));
    if (n == nullptr || n->here.empty()) continue;
    const std::string key = std::string(n->here) + name.substr(dot);
    return is_key(keys, key)
               ? fmt::format("; here it is called {}", called(key, false, option))
               : fmt::format("; the section is called {} here", called(n->here, true, false));
  }
  return "";
}

std::string nearest_key(const std::vector<Key>& keys, const std::string& name) {
  std::string found;  // a prefix that is right, "" at first
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    std::set<std::string> here;
    for (const Key& k : keys) {
      if (!k.name.starts_with(found)) continue;
      const std::string rest = k.name.substr(found.size());
      const size_t dot = rest.find('.');
      // Another part follows, or none does.
      if ((dot == std::string::npos) == (end == name.size())) here.insert(rest.substr(0, dot));
    }
    const std::string near =
        here.contains(part) ? part : nearest(part, Strings(here.begin(), here.end()));
    if (near.empty()) return "";
    found += near + (end == name.size() ? "" : ".");
    begin = end + 1;
  }
  return found;
}

std::string same_last_name(const std::vector<Key>& keys, const std::string& name) {
  const std::string last = name.substr(name.rfind('.') + 1);
  Strings found;
  for (const Key& k : keys)
    if (last_name_of(k) == last) found.push_back(k.name);
  return found.empty() || found.size() > 2 ? "" : found.front();
}

}  // namespace nereus
