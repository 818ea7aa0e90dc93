#include "config/model_args.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/log.h"
#include "base/suggest.h"
#include "config/job_config.h"

namespace nereus {
namespace {

constexpr double kTwoPi = 2 * 3.14159265358979323846;

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

ModelArgs debugmodel() {
  ModelArgs a;
  a.vocab_size = 2048;
  a.dim = 256;
  a.inter_dim = 1024;
  a.moe_inter_dim = 256;
  a.n_layers = 6;
  a.n_dense_layers = 1;
  a.n_heads = 16;
  a.moe = {.num_experts = 8,
           .num_shared_experts = 2,
           .top_k = 3,
           .score_func = ScoreFunction::softmax,
           .route_norm = false,
           .route_scale = 1.0,
           .score_before_experts = false};
  a.mscale = 0.70;
  return a;
}

ModelArgs flex(ModelArgs a) {
  a.use_flex_attn = true;
  a.attn_mask_type = MaskType::block_causal;
  return a;
}

ModelArgs flavor_16b() {
  ModelArgs a = flex(debugmodel());
  a.vocab_size = 102400;
  a.dim = 2048;
  a.inter_dim = 10944;
  a.moe_inter_dim = 1408;
  a.n_layers = 27;
  a.moe.num_experts = 64;
  a.moe.top_k = 6;
  return a;
}

ModelArgs flavor_236b() {
  ModelArgs a = flavor_16b();
  a.dim = 5120;
  a.inter_dim = 12288;
  a.moe_inter_dim = 1536;
  a.n_layers = 60;
  a.n_heads = 128;
  a.moe.num_experts = 160;
  a.moe.route_scale = 16.0;
  a.n_expert_groups = 8;
  a.n_limited_groups = 3;
  a.q_lora_rank = 1536;
  a.mscale = 1.0;
  return a;
}

ModelArgs flavor_671b() {
  ModelArgs a = flavor_236b();
  a.vocab_size = 129280;
  a.dim = 7168;
  a.inter_dim = 18432;
  a.moe_inter_dim = 2048;
  a.n_layers = 61;
  a.n_dense_layers = 3;
  a.moe = {.num_experts = 256,
           .num_shared_experts = 1,
           .top_k = 8,
           .score_func = ScoreFunction::sigmoid,
           .route_norm = true,
           .route_scale = 2.5,
           .score_before_experts = false};
  a.n_limited_groups = 4;
  return a;
}

template <class T>
void override_with(const std::optional<T>& value, T& target) {
  if (value) target = *value;
}

void apply_overrides(const JobConfig::ModelOverrides& o, ModelArgs& a) {
  override_with(o.vocab_size, a.vocab_size);
  override_with(o.dim, a.dim);
  override_with(o.inter_dim, a.inter_dim);
  override_with(o.moe_inter_dim, a.moe_inter_dim);
  override_with(o.n_layers, a.n_layers);
  override_with(o.n_dense_layers, a.n_dense_layers);
  override_with(o.n_heads, a.n_heads);
  override_with(o.n_expert_groups, a.n_expert_groups);
  override_with(o.n_limited_groups, a.n_limited_groups);
  override_with(o.q_lora_rank, a.q_lora_rank);
  override_with(o.kv_lora_rank, a.kv_lora_rank);
  override_with(o.qk_nope_head_dim, a.qk_nope_head_dim);
  override_with(o.qk_rope_head_dim, a.qk_rope_head_dim);
  override_with(o.v_head_dim, a.v_head_dim);
  override_with(o.original_seq_len, a.original_seq_len);
  override_with(o.norm_eps, a.norm_eps);
  override_with(o.rope_theta, a.rope_theta);
  override_with(o.rope_factor, a.rope_factor);
  override_with(o.beta_fast, a.beta_fast);
  override_with(o.beta_slow, a.beta_slow);
  override_with(o.mscale, a.mscale);
  // As in TorchTitan the mask is causal without FlexAttention.
  override_with(o.use_flex_attn, a.use_flex_attn);
  if (!a.use_flex_attn) a.attn_mask_type = MaskType::causal;
  override_with(o.attn_mask_type, a.attn_mask_type);
  a.use_flex_attn |= a.block_causal();
  override_with(o.num_experts, a.moe.num_experts);
  override_with(o.num_shared_experts, a.moe.num_shared_experts);
  override_with(o.top_k, a.moe.top_k);
  override_with(o.route_norm, a.moe.route_norm);
  override_with(o.route_scale, a.moe.route_scale);
  override_with(o.score_before_experts, a.moe.score_before_experts);
  override_with(o.load_balance_coeff, a.moe.load_balance_coeff);
  override_with(o.score_func, a.moe.score_func);
  if (a.numerics.yarn == YarnRule::where_configured && o.rope_factor)
    a.hf_yarn = *o.rope_factor > 1;
}

// Hugging Face has two mscales where TorchTitan has one, which set_family() made both of. Over a
// flavor or TorchTitan's arguments the new one is both again; over a config.json it is that of the
// same name, and what it does not move is said.
void override_mscale(const JobConfig& c, ModelArgs& a) {
  if (!c.model_overrides.mscale || a.numerics.yarn != YarnRule::where_configured) return;
  a.hf_mscale_given = true;
  if (c.model.torchtitan_args || !c.model.hf_config) {
    a.hf_mscale_all_dim = a.mscale;
  } else if (a.hf_yarn && a.hf_mscale_all_dim == 0) {
    log::warning(
        "model_overrides.mscale = {} has no effect: it is divided by mscale_all_dim, which {} does "
        "not have.",
        a.mscale, *c.model.hf_config);
  } else if (a.hf_yarn && a.hf_mscale_all_dim != a.mscale) {
    log::warning(
        "model_overrides.mscale = {} scales cos and sin alone; the attention's scale follows "
        "mscale_all_dim, which is {} in {}. To change both, change the file.",
        a.mscale, a.hf_mscale_all_dim, *c.model.hf_config);
  }
}

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // ids and rows are 32-bit
constexpr int64_t kMostLayers = 10'000;

void positive(const ModelArgs& a, const char* name, int64_t value) {
  NEREUS_CHECK(kConfig, value >= 1 && value <= kMost,
               "model {}: {} = {}: it must be at least 1 and at most {}", a.flavor, name, value,
               kMost);
}

void above_zero(const ModelArgs& a, const char* name, double value) {
  NEREUS_CHECK(kConfig, value > 0 && std::isfinite(value),
               "model {}: {} = {}: it must be greater than 0", a.flavor, name, value);
}

void check_experts(const ModelArgs& a) {
  positive(a, "moe_inter_dim", a.moe_inter_dim);
  positive(a, "num_experts", a.moe.num_experts);
  NEREUS_CHECK(kConfig, a.moe.top_k >= 1 && a.moe.top_k <= a.moe.num_experts,
               "model {}: top_k = {} of num_experts = {}: a token needs between 1 and all of them",
               a.flavor, a.moe.top_k, a.moe.num_experts);
  NEREUS_CHECK(kConfig, a.moe.num_shared_experts >= 0 && a.moe.num_shared_experts <= kMost,
               "model {}: num_shared_experts = {}: it must be 0 or more", a.flavor,
               a.moe.num_shared_experts);
  above_zero(a, "route_scale", a.moe.route_scale);
  NEREUS_CHECK(kConfig, a.moe.load_balance_coeff >= 0 && std::isfinite(a.moe.load_balance_coeff),
               "model {}: load_balance_coeff = {}: it must be 0 (no balancing) or more", a.flavor,
               a.moe.load_balance_coeff);
  NEREUS_CHECK(
      kConfig, a.numerics.softmax_scores || a.moe.score_func == ScoreFunction::sigmoid,
      "model {}: score_func = softmax: numerics.family = huggingface has sigmoid scores only; "
      "use family torchtitan",
      a.flavor);
  if (!a.numerics.expert_groups) return;
  NEREUS_CHECK(kConfig, a.n_expert_groups >= 1 && a.moe.num_experts % a.n_expert_groups == 0,
               "model {}: num_experts = {} do not divide into n_expert_groups = {}", a.flavor,
               a.moe.num_experts, a.n_expert_groups);
  NEREUS_CHECK(
      kConfig, a.n_limited_groups >= 1 && a.n_limited_groups <= a.n_expert_groups,
      "model {}: n_limited_groups = {} of n_expert_groups = {}: it must be between 1 and that",
      a.flavor, a.n_limited_groups, a.n_expert_groups);
  NEREUS_CHECK(kConfig, a.moe.top_k <= a.moe.num_experts / a.n_expert_groups * a.n_limited_groups,
               "model {}: top_k = {}, but {} groups of {} experts leave only {} to choose from",
               a.flavor, a.moe.top_k, a.n_limited_groups, a.moe.num_experts / a.n_expert_groups,
               a.moe.num_experts / a.n_expert_groups * a.n_limited_groups);
}

// In double, since the product of sizes may overflow.
void check_total(const ModelArgs& a) {
  const auto x = [](int64_t n) { return static_cast<double>(n); };
  const double expert = 3 * x(a.dim) * x(a.moe_inter_dim);
  const double heads = x(a.n_heads) * x(a.qk_head_dim() + a.qk_nope_head_dim + 2 * a.v_head_dim);
  const double layer =
      heads * (x(a.dim) + x(a.q_lora_rank) + x(a.kv_lora_rank)) + 3 * x(a.dim) * x(a.inter_dim) +
      (a.n_dense_layers == a.n_layers ? 0
                                      : expert * x(a.moe.num_experts + a.moe.num_shared_experts));
  const double total = x(a.n_layers) * layer + 2 * x(a.vocab_size) * x(a.dim);
  NEREUS_CHECK(kConfig, total < 1e15,
               "model {}: its sizes make some {:.0e} parameters; at most 1e15 can be counted",
               a.flavor, total);
}

}  // namespace

RopeParameters rope_parameters(const ModelArgs& a) {
  RopeParameters r{.theta = a.rope_theta,
                   .yarn = false,
                   .factor = a.rope_factor,
                   .beta_fast = a.beta_fast,
                   .beta_slow = a.beta_slow,
                   .original_seq_len = a.original_seq_len,
                   .amplitude = 1,
                   .softmax_scale = 1 / std::sqrt(static_cast<double>(a.qk_head_dim()))};
  if (a.numerics.yarn == YarnRule::beyond_original_length) {
    r.yarn = a.max_seq_len > a.original_seq_len;
    if (r.yarn) {
      const double m = 0.1 * a.mscale * std::log(a.rope_factor) + 1.0;
      r.softmax_scale *= m * m;
    }
    return r;
  }
  r.yarn = a.hf_yarn;
  if (!r.yarn) return r;
  if (a.hf_mscale_all_dim != 0) {
    const double m = yarn_mscale(a.rope_factor, a.hf_mscale_all_dim);
    r.softmax_scale *= m * m;
  }
  r.amplitude =
      a.hf_mscale_given && a.hf_mscale_all_dim != 0
          ? yarn_mscale(a.rope_factor, a.mscale) / yarn_mscale(a.rope_factor, a.hf_mscale_all_dim)
          : yarn_mscale(a.rope_factor, 1.0);
  return r;
}

// YaRN (Peng et al., arXiv 2309.00071): frequencies that turn often within the original length
// stay, slow ones are divided by the factor, with a linear ramp between.
std::vector<float> rope_frequencies(const RopeParameters& r, int64_t rope_dim) {
  const int64_t half = rope_dim / 2;
  const auto dim = static_cast<double>(rope_dim);
  std::vector<float> out(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    out[static_cast<size_t>(i)] =
        1.0f / std::pow(static_cast<float>(r.theta),
                        static_cast<float>(2 * i) / static_cast<float>(rope_dim));
  if (!r.yarn) return out;
  const auto correction = [&](double rotations) {
    return dim * std::log(static_cast<double>(r.original_seq_len) / (rotations * kTwoPi)) /
           (2 * std::log(r.theta));
  };
  const double low = std::max(std::floor(correction(r.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(r.beta_slow)), dim - 1);
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < half; ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float smooth = 1.0f - ramp;
    float& f = out[static_cast<size_t>(i)];
    f = f / static_cast<float>(r.factor) * (1.0f - smooth) + f * smooth;
  }
  return out;
}

void check(const ModelArgs& a) {
  positive(a, "vocab_size", a.vocab_size);
  positive(a, "dim", a.dim);
  positive(a, "inter_dim", a.inter_dim);
  positive(a, "n_layers", a.n_layers);
  NEREUS_CHECK(kConfig, a.n_layers <= kMostLayers,
               "model {}: n_layers = {}: at most {} are possible", a.flavor, a.n_layers,
               kMostLayers);
  positive(a, "n_heads", a.n_heads);
  positive(a, "kv_lora_rank", a.kv_lora_rank);
  positive(a, "qk_nope_head_dim", a.qk_nope_head_dim);
  positive(a, "v_head_dim", a.v_head_dim);
  positive(a, "original_seq_len", a.original_seq_len);
  positive(a, "max_seq_len", a.max_seq_len);
  above_zero(a, "norm_eps", a.norm_eps);
  above_zero(a, "rope_factor", a.rope_factor);
  above_zero(a, "beta_fast", a.beta_fast);
  above_zero(a, "beta_slow", a.beta_slow);
  NEREUS_CHECK(kConfig, a.rope_theta > 1 && std::isfinite(a.rope_theta),
               "model {}: rope_theta = {}: it must be greater than 1", a.flavor, a.rope_theta);
  NEREUS_CHECK(
      kConfig, a.qk_rope_head_dim >= 2 && a.qk_rope_head_dim % 2 == 0 && a.qk_rope_head_dim < kMost,
      "model {}: qk_rope_head_dim = {}: rotary embedding turns pairs; it must be even, at least 2",
      a.flavor, a.qk_rope_head_dim);
  NEREUS_CHECK(kConfig, a.q_lora_rank >= 0 && a.q_lora_rank <= kMost,
               "model {}: q_lora_rank = {}: it must be 0 (none) or more, at most {}", a.flavor,
               a.q_lora_rank, kMost);
  NEREUS_CHECK(kConfig, a.n_dense_layers >= 0 && a.n_dense_layers <= a.n_layers,
               "model {}: n_dense_layers = {} of n_layers = {}: it must be between 0 and n_layers",
               a.flavor, a.n_dense_layers, a.n_layers);
  if (a.n_dense_layers < a.n_layers) check_experts(a);
  check_total(a);
}

std::string routing_name(const MoeArgs& moe) {
  if (moe.skew_percent > 0)
    return fmt::format("forced, {} % of tokens to the first {} experts", moe.skew_percent,
                       moe.top_k);
  return moe.force_load_balance ? "forced balance" : "learned";
}

std::vector<std::string> model_flavors() {
  return {"debugmodel", "debugmodel_flex_attn", "16B", "236B", "671B"};
}

ModelArgs model_args_of_flavor(const std::string& flavor) {
  ModelArgs a;
  if (flavor == "debugmodel") {
    a = debugmodel();
  } else if (flavor == "debugmodel_flex_attn") {
    a = flex(debugmodel());
  } else if (flavor == "16B") {
    a = flavor_16b();
  } else if (flavor == "236B") {
    a = flavor_236b();
  } else if (flavor == "671B") {
    a = flavor_671b();
  } else {
    const Strings flavors = model_flavors();
    const std::string near = nearest(flavor, flavors);
    NEREUS_FAIL(kConfig, "model.flavor = \"{}\": deepseek_v3 has the flavors {}{}", flavor,
                fmt::join(flavors, ", "),
                near.empty() ? "" : fmt::format("; did you mean {}?", near));
  }
  a.flavor = flavor;
  return a;
}

void set_family(ModelArgs& a, NumericsFamily family) {
  const YarnRule before = a.numerics.yarn;
  a.numerics = numerics_of(family);
  if (a.numerics.yarn == before) return;
  if (a.numerics.yarn == YarnRule::where_configured) {
    a.hf_yarn = a.rope_factor > 1;
    a.hf_mscale_given = true;
    a.hf_mscale_all_dim = a.mscale;
    return;
  }
  // TorchTitan's one mscale scales the softmax, as mscale_all_dim does for Hugging Face.
  a.mscale = a.hf_mscale_all_dim;
  if (!a.hf_yarn) a.rope_factor = 1;
}

ModelArgs resolve_model_args(const JobConfig& c) {
  ModelArgs a = c.model.torchtitan_args ? model_args_from_torchtitan_json(*c.model.torchtitan_args)
                : c.model.hf_config     ? model_args_from_hf_config(*c.model.hf_config)
                                        : model_args_of_flavor(c.model.flavor);
  if (c.numerics.family) set_family(a, *c.numerics.family);
  if (a.numerics.family == NumericsFamily::torchtitan && c.training.seq_len > a.max_seq_len)
    log::warning("Sequence length {} exceeds original maximum {}.", c.training.seq_len,
                 a.max_seq_len);
  a.max_seq_len = c.training.seq_len;
  a.moe.skew_percent = c.training.debug_moe_skew_percent;
  a.moe.force_load_balance |= c.training.debug_moe_force_load_balance || a.moe.skew_percent > 0;
  apply_overrides(c.model_overrides, a);
  override_mscale(c, a);
  check(a);
  return a;
}

}  // namespace nereus
