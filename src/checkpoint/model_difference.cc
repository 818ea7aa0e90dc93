#include "checkpoint/model_difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace nereus {
namespace {

namespace fs = std::filesystem;

// eps of norms below which they are not looked at in others' weights.
constexpr double kSmallEps = 1e-5;

class Differences {
 public:
  template <class T>
  void compare(const char* ours, const char* theirs, const T& file, const T& run) {
    if (file != run) add(ours, theirs, fmt::format("{}", file), fmt::format("{}", run));
  }
  void add(const std::string& ours, const std::string& theirs, const std::string& file,
           const std::string& run) {
    const std::string also = ours == theirs ? "" : fmt::format(" ({})", theirs);
    lines_.push_back(fmt::format("{}{}: {} there, {} here", ours, also, file, run));
  }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

void compare_sizes(const ModelArgs& file, const ModelArgs& run, Differences& d) {
  d.compare("dim", "hidden_size", file.dim, run.dim);
  d.compare("n_layers", "num_hidden_layers", file.n_layers, run.n_layers);
  d.compare("n_dense_layers", "first_k_dense_replace", file.n_dense_layers, run.n_dense_layers);
  d.compare("inter_dim", "intermediate_size", file.inter_dim, run.inter_dim);
  d.compare("n_heads", "num_attention_heads", file.n_heads, run.n_heads);
  d.compare("q_lora_rank", "q_lora_rank", file.q_lora_rank, run.q_lora_rank);
  d.compare("kv_lora_rank", "kv_lora_rank", file.kv_lora_rank, run.kv_lora_rank);
  d.compare("qk_nope_head_dim", "qk_nope_head_dim", file.qk_nope_head_dim, run.qk_nope_head_dim);
  d.compare("qk_rope_head_dim", "qk_rope_head_dim", file.qk_rope_head_dim, run.qk_rope_head_dim);
  d.compare("v_head_dim", "v_head_dim", file.v_head_dim, run.v_head_dim);
}

// All groups may be chosen from: as if there were one.
std::pair<int64_t, int64_t> groups_of(const ModelArgs& a) {
  if (a.n_limited_groups >= a.n_expert_groups) return {1, 1};
  return {a.n_expert_groups, a.n_limited_groups};
}

void compare_experts(const ModelArgs& file, const ModelArgs& run, Differences& d) {
  const auto none = [](const ModelArgs& a) { return a.n_dense_layers >= a.n_layers; };
  if (none(file) || none(run)) return;  // which n_dense_layers says
  d.compare("num_experts", "n_routed_experts", file.moe.num_experts, run.moe.num_experts);
  d.compare("num_shared_experts", "n_shared_experts", file.moe.num_shared_experts,
            run.moe.num_shared_experts);
  d.compare("moe_inter_dim", "moe_intermediate_size", file.moe_inter_dim, run.moe_inter_dim);
  d.compare("top_k", "num_experts_per_tok", file.moe.top_k, run.moe.top_k);
  d.compare("score_func", "scoring_func", std::string(word(file.moe.score_func)),
            std::string(word(run.moe.score_func)));
  d.compare("route_norm", "norm_topk_prob", file.moe.route_norm, run.moe.route_norm);
  d.compare("route_scale", "routed_scaling_factor", file.moe.route_scale, run.moe.route_scale);
  if (!run.numerics.expert_groups || groups_of(file) == groups_of(run)) return;
  d.compare("n_expert_groups", "n_group", file.n_expert_groups, run.n_expert_groups);
  d.compare("n_limited_groups", "topk_group", file.n_limited_groups, run.n_limited_groups);
}

// mscale and mscale_all_dim, 0: not given. The first means nothing without the second.
std::pair<double, double> mscales_of(const ModelArgs& a) {
  const bool one = a.numerics.yarn == YarnRule::beyond_original_length;
  const double all = one ? a.mscale : a.hf_mscale_all_dim;
  return {(one || a.hf_mscale_given) && all != 0 ? a.mscale : 0, all};
}

// With both in use, or by the same rule one of them.
void compare_yarn(const ModelArgs& file, const ModelArgs& run, Differences& d) {
  const bool there = file.hf_yarn, here = rope_parameters(run).yarn;
  if (there != here) {
    // In TorchTitan's family it begins with the length: file.max_seq_len is how far the file goes.
    const bool by_length =
        run.numerics.yarn == YarnRule::beyond_original_length &&
        (here ? run.max_seq_len > file.max_seq_len : run.max_seq_len < file.max_seq_len);
    if (by_length) return;
    const auto on = [](bool yes) { return yes ? "on" : "off"; };
    d.add("YaRN", "rope_scaling", on(there), on(here));
  }
  if (!there || !here) return;
  d.compare("rope_factor", "rope_scaling.factor", file.rope_factor, run.rope_factor);
  d.compare("beta_fast", "beta_fast", file.beta_fast, run.beta_fast);
  d.compare("beta_slow", "beta_slow", file.beta_slow, run.beta_slow);
  d.compare("original_seq_len", "original_max_position_embeddings", file.original_seq_len,
            run.original_seq_len);
  const auto [a_one, a_all] = mscales_of(file);
  const auto [b_one, b_all] = mscales_of(run);
  d.compare("mscale", "mscale", a_one, b_one);
  d.compare("mscale", "mscale_all_dim", a_all, b_all);
}

}  // namespace

std::optional<std::string> config_beside(const std::string& weights) {
  std::error_code ignored;
  const fs::path path = weights;
  const fs::path config =
      (fs::is_directory(path, ignored) ? path : path.parent_path()) / "config.json";
  if (!fs::is_regular_file(config, ignored)) return std::nullopt;
  return config.string();
}

std::vector<std::string> model_differences(const ModelArgs& file, const ModelArgs& run,
                                           WeightsOf whose) {
  Differences d;
  compare_sizes(file, run, d);
  // Where the last norm's eps is the family's own, config.json's says little of the norms.
  const bool small = whose == WeightsOf::others && run.numerics.final_norm_eps.has_value() &&
                     std::max(file.norm_eps, run.norm_eps) <= kSmallEps;
  if (!small) d.compare("norm_eps", "rms_norm_eps", file.norm_eps, run.norm_eps);
  compare_experts(file, run, d);
  d.compare("rope_theta", "rope_theta", file.rope_theta, run.rope_theta);
  compare_yarn(file, run, d);
  return d.take();
}

}  // namespace nereus
