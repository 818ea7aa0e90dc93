// Rules across keys: what TorchTitan asserts, with its sentence first, and what is not implemented.
#include "base/check.h"

#include <algorithm>

#include "config/load.h"
#include "config/rank_list.h"

namespace nereus {
namespace {

// Reads "file:line" or "command line" for a key, for messages.
class Origins {
 public:
  explicit Origins(const LoadedConfig& loaded) : loaded_(loaded) {}
  std::string operator()(const char* key) const {
    const auto found = loaded_.origin.find(key);
    return found == loaded_.origin.end() ? "default" : found->second;
  }

 private:
  const LoadedConfig& loaded_;
};

// Classes of the keys that were set to something else than their default.
void check_classes(LoadedConfig& loaded) {
  JobConfig defaults;
  const std::vector<Key> default_keys = keys(defaults), set_keys = keys(loaded.config);
  Strings without_meaning;
  for (size_t i = 0; i < set_keys.size(); ++i) {
    const Key& key = set_keys[i];
    const auto origin = loaded.origin.find(key.name);
    if (origin == loaded.origin.end() || value_text(key) == value_text(default_keys[i])) continue;
    switch (key.key_class) {
      case KeyClass::works:
        break;
      case KeyClass::no_meaning:
        without_meaning.push_back(key.name);
        break;
      case KeyClass::refused:
        NEREUS_FAIL(
            kConfig,
            "{}: {} = {}: not implemented, and the run would not be what was asked for.\n  Leave "
            "it at {} ({}).",
            origin->second, key.name, value_text(key), value_text(default_keys[i]), key.meaning);
    }
  }
  if (!without_meaning.empty())
    loaded.notices.push_back(fmt::format("These settings have no effect in Nereus: {}",
                                         fmt::join(without_meaning, ", ")));
}

void check_model(LoadedConfig& loaded, const Origins& at) {
  JobConfig& c = loaded.config;
  NEREUS_CHECK(
      kConfig, !c.model.hf_config || !c.model.torchtitan_args,
      "model.hf_config = {} ({}) and model.torchtitan_args = {} ({}): the model comes from one "
      "of them; remove the other.",
      c.model.hf_config.value_or(""), at("model.hf_config"), c.model.torchtitan_args.value_or(""),
      at("model.torchtitan_args"));
  const auto& o = c.model_overrides;
  NEREUS_CHECK(kConfig,
               o.use_flex_attn.value_or(true) || o.attn_mask_type != MaskType::block_causal,
               "model_overrides.use_flex_attn = false ({}) asks for a causal mask, "
               "model_overrides.attn_mask_type = \"block_causal\" ({}) for one within documents: "
               "remove one of them.",
               at("model_overrides.use_flex_attn"), at("model_overrides.attn_mask_type"));
  if (!c.model.tokenizer_path) return;
  NEREUS_CHECK(kConfig, !c.model.tokenizer_path->ends_with("tokenizer.model"),
               "{}: model.tokenizer_path = {}: sentencepiece files are not read; name the folder "
               "with tokenizer.json in model.hf_assets_path.",
               at("model.tokenizer_path"), *c.model.tokenizer_path);
  c.model.hf_assets_path = *c.model.tokenizer_path;
  loaded.notices.push_back(
      fmt::format("{}: model.tokenizer_path is the older name of model.hf_assets_path: read as it",
                  at("model.tokenizer_path")));
}

void check_batches(const JobConfig& c, const Origins& at, int64_t world) {
  const auto& p = c.parallelism;
  const int64_t others =
      p.tensor_parallel_degree * p.context_parallel_degree * p.pipeline_parallel_degree;
  const int64_t shard = p.data_parallel_shard_degree;
  NEREUS_CHECK(
      kConfig, others * p.data_parallel_replicate_degree > 1 || shard == -1 || shard == world,
      "Invalid parallel dims: dp_replicate(1) * dp_shard({}) * cp(1) * tp(1) * pp(1) != "
      "WORLD_SIZE({})\n  {}: parallelism.data_parallel_shard_degree = {}: set it to {} or -1.",
      shard, world, at("parallelism.data_parallel_shard_degree"), shard, world);
  // Degrees that do not multiply to the ranks are the mesh's to refuse.
  const int64_t dp = world % others == 0 ? world / others : 1;
  const int64_t lbs = c.training.local_batch_size, gbs = c.global_batch(dp);
  NEREUS_CHECK(
      kConfig, gbs % (lbs * dp) == 0,
      "global batch size must be multiple of local batch size times data-parallel degree ({} % "
      "({} * {}) != 0)\n  training.global_batch_size = {} ({}), training.local_batch_size = {} "
      "({}): set global_batch_size to {}.",
      gbs, lbs, dp, gbs, at("training.global_batch_size"), lbs, at("training.local_batch_size"),
      (gbs / (lbs * dp) + 1) * lbs * dp);
  const int64_t tp = p.tensor_parallel_degree, cp = p.context_parallel_degree;
  NEREUS_CHECK(kConfig, c.training.seq_len % (tp * 2 * cp) == 0,
               "Sequence length {} must be divisible by the product of TP degree ({}) and 2 * CP "
               "degree ({}).\n  {}: training.seq_len = {}: set it to {}.",
               c.training.seq_len, tp, cp, at("training.seq_len"), c.training.seq_len,
               (c.training.seq_len / (tp * 2 * cp) + 1) * tp * 2 * cp);
  const auto& v = c.validation;
  NEREUS_CHECK(
      kConfig, !v.enable || v.seq_len == c.training.seq_len,
      "validation.seq_len = {} ({}), training.seq_len = {} ({}): held-out rows are evaluated at "
      "the training length; make them equal.",
      v.seq_len, at("validation.seq_len"), c.training.seq_len, at("training.seq_len"));
}

void check_checkpoint(const JobConfig& c, const Origins& at) {
  const auto& k = c.checkpoint;
  NEREUS_CHECK(
      kConfig, !k.enable || k.keep_latest_k != 1,
      "We need to maintain at least 2 checkpoint replicas, as the last one may be in the "
      "process of being saved.\n  {}: checkpoint.keep_latest_k = 1: set it to 0 (all) or 2 and "
      "more.",
      at("checkpoint.keep_latest_k"));
  NEREUS_CHECK(kConfig, !k.initial_load_in_hf || k.initial_load_model_only,
               "Only model can be loaded when loading from HF's safetensors checkpoint.\n  {}: set "
               "checkpoint.initial_load_model_only to true.",
               at("checkpoint.initial_load_model_only"));
  NEREUS_CHECK(kConfig, !k.initial_load_in_hf_quantized || k.initial_load_in_hf,
               "Quantized checkpoint can only be loaded from HuggingFace format.\n  {}: set "
               "checkpoint.initial_load_in_hf to true.",
               at("checkpoint.initial_load_in_hf_quantized"));
  const Integers& skip = c.training.skip_steps;
  NEREUS_CHECK(kConfig, skip.empty() || (skip.size() == 2 && skip[0] <= skip[1]),
               "{}: training.skip_steps = [{}]: it must be [a, b], the first and the last step "
               "whose data is passed over.",
               at("training.skip_steps"), fmt::join(skip, ", "));
  if (!k.enable || k.load_only) return;
  NEREUS_CHECK(kConfig, !k.last_save_in_hf || k.last_save_model_only,
               "Only model can be saved when saving in HF safetensors format.\n  {}: set "
               "checkpoint.last_save_model_only to true.",
               at("checkpoint.last_save_model_only"));
}

void check_recompute(const JobConfig& c, const Origins& at) {
  const auto& a = c.activation_checkpoint;
  NEREUS_CHECK(
      kConfig, a.mode != RecomputeMode::memory_budget,
      "Memory budget mode requires model to be compiled\n  {}: activation_checkpoint.mode = "
      "memory_budget is a feature of PyTorch's compiler: use selective (with "
      "selective_ac_option = \"op\") or full.",
      at("activation_checkpoint.mode"));
  const std::string& o = a.selective_ac_option;
  const bool number =
      !o.empty() && o.size() < 7 && o.find_first_not_of("0123456789") == std::string::npos;
  NEREUS_CHECK(
      kConfig, o == "op" || number,
      "Invalid selective AC option: {}. Valid options: 'op' or a positive int representing "
      "layer frequency\n  {}: activation_checkpoint.selective_ac_option = \"{}\": set it to \"op\" "
      "or "
      "to a number of blocks.",
      o, at("activation_checkpoint.selective_ac_option"), o);
}

// A world of 0 ranks is not known yet.
void check_profiling(const JobConfig& c, const Origins& at, int64_t world) {
  const auto& p = c.profiling;
  NEREUS_CHECK(
      kConfig, !p.enable_profiling || p.profile_freq >= p.profiler_active + p.profiler_warmup,
      "profile_freq must be greater than or equal to warmup + active\n  profiling.profile_freq "
      "= {}, profiler_warmup = {}, profiler_active = {}",
      p.profile_freq, p.profiler_warmup, p.profiler_active);
  if (p.ranks == "all" || p.ranks == "stage") return;
  const Integers listed = ranks_of_list(p.ranks);
  NEREUS_CHECK(kConfig, !listed.empty(),
               "{}: profiling.ranks = \"{}\": all, stage, or numbers of ranks with commas, as in "
               "\"0,8\".",
               at("profiling.ranks"), p.ranks);
  const int64_t highest = *std::max_element(listed.begin(), listed.end());
  NEREUS_CHECK(kConfig, world <= 0 || highest < world,
               "{}: profiling.ranks = \"{}\": there is no rank {} in a run of {}; the last one is "
               "{}.",
               at("profiling.ranks"), p.ranks, highest, world, world - 1);
}

void check_optimizer(const JobConfig& c, const Origins& at) {
  NEREUS_CHECK(
      kConfig,
      c.optimizer.master_dtype != MasterType::split ||
          c.training.mixed_precision_param == DType::bf16,
      "optimizer.master_dtype = \"split\" ({}) keeps what bf16 copies lack of the masters, "
      "and training.mixed_precision_param = \"{}\" ({}) makes no such copies: set that to "
      "bfloat16, or optimizer.master_dtype to float32.",
      at("optimizer.master_dtype"), word(c.training.mixed_precision_param),
      at("training.mixed_precision_param"));
}

}  // namespace

void check_config(LoadedConfig& loaded, int64_t world) {
  const Origins at(loaded);
  check_model(loaded, at);
  check_classes(loaded);
  check_recompute(loaded.config, at);
  check_profiling(loaded.config, at, world);
  check_optimizer(loaded.config, at);
  if (world > 0) check_batches(loaded.config, at, world);
  check_checkpoint(loaded.config, at);
}

}  // namespace nereus
