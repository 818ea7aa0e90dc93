// What defines a model of the DeepSeek-V3 family: sizes, routing and numerics. Names are
// TorchTitan's (DeepSeekV3ModelArgs, MoEArgs); what only Hugging Face has is marked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/numerics.h"

namespace nereus {

struct MoeArgs {
  int64_t num_experts = 8;
  int64_t num_shared_experts = 1;  // one feed-forward layer of width num_shared * moe_inter_dim
  int64_t top_k = 1;
  ScoreFunction score_func = ScoreFunction::sigmoid;
  bool route_norm = false;
  double route_scale = 1.0;
  bool score_before_experts = true;
  double load_balance_coeff = 1e-3;  // 0: no bias and no update (TorchTitan's None)
  bool use_grouped_mm = true;        // accepted; has no meaning here
  // For benchmarks, of a run and not of a model.
  bool force_load_balance = false;  // round-robin routing
  int64_t skew_percent = 0;  // with it: of 100 tokens, those that go to the first top_k experts
};

// "learned", "forced balance", "forced, 20 % of tokens to the first 8 experts".
std::string routing_name(const MoeArgs&);

struct ModelArgs {
  std::string flavor = "debugmodel";  // or a file's path; for messages and logs
  Numerics numerics = numerics_of(NumericsFamily::torchtitan);

  int64_t vocab_size = 102400;
  int64_t dim = 2048;
  int64_t inter_dim = 10944;
  int64_t moe_inter_dim = 1408;
  int64_t n_layers = 27;
  int64_t n_dense_layers = 1;
  int64_t n_heads = 16;
  double norm_eps = 1e-5;
  double final_norm_eps() const { return numerics.final_norm_eps.value_or(norm_eps); }
  double latent_norm_eps() const { return numerics.latent_norm_eps.value_or(norm_eps); }
  MoeArgs moe;

  // Used with numerics.expert_groups only.
  int64_t n_expert_groups = 1;
  int64_t n_limited_groups = 1;

  int64_t q_lora_rank = 0;  // 0: q by one projection
  int64_t kv_lora_rank = 512;
  int64_t qk_nope_head_dim = 128;
  int64_t qk_rope_head_dim = 64;
  int64_t v_head_dim = 128;

  // The run's: its sequence length, and which tokens attention sees.
  int64_t max_seq_len = 16384;
  int64_t eos_id = -1;         // of config.json, ends a document for block_causal; -1: not given
  bool use_flex_attn = false;  // has no meaning here but for the mask of a file or flavor
  MaskType attn_mask_type = MaskType::causal;

  // Rotary embedding, as rope_parameters() reads it by numerics.yarn.
  int64_t original_seq_len = 4096;
  double rope_theta = 10000.0;
  double rope_factor = 40;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1.0;
  // YarnRule::where_configured only: is there a YaRN section, and its second mscale (0: not given).
  bool hf_yarn = false;
  bool hf_mscale_given = false;
  double hf_mscale_all_dim = 0;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  bool is_moe_layer(int64_t layer) const { return layer >= n_dense_layers; }
  bool block_causal() const { return attn_mask_type == MaskType::block_causal; }
  const char* mask_name() const { return block_causal() ? "document mask" : "causal"; }
};

// The rotary tables' frequencies and the attention's scale that follow from the arguments
// (docs/numerics.md): YaRN by the sequence length for TorchTitan, by the config for Hugging Face.
struct RopeParameters {
  double theta = 10000.0;
  bool yarn = false;
  double factor = 1, beta_fast = 32, beta_slow = 1;
  int64_t original_seq_len = 4096;
  double amplitude = 1;      // cos and sin are multiplied by it
  double softmax_scale = 1;  // 1/sqrt(qk_head_dim), times mscale^2 where the family asks for it
};

RopeParameters rope_parameters(const ModelArgs&);

// The frequency of each of the rope_dim / 2 rotary pairs, f32, rounded where the references round.
std::vector<float> rope_frequencies(const RopeParameters&, int64_t rope_dim);

// Throws Error{kConfig} that names the first sizes that contradict each other.
void check(const ModelArgs&);

// Changes whose arithmetic is followed, keeping the model: YaRN, which config.json gives or not and
// TorchTitan's arguments always have (factor 1: none), is said as the other rule reads it.
void set_family(ModelArgs&, NumericsFamily);

// debugmodel, debugmodel_flex_attn, 16B, 236B, 671B
std::vector<std::string> model_flavors();
// Throws Error{kConfig} that lists them.
ModelArgs model_args_of_flavor(const std::string& flavor);
// A JSON file of DeepSeekV3ModelArgs. Throws Error{kConfig} naming the file and the field. Without
// FlexAttention TorchTitan's mask is causal, whatever attn_mask_type says; so it is here.
ModelArgs model_args_from_torchtitan_json(const std::string& path);
// A config.json of DeepseekV3ForCausalLM, family huggingface; what it leaves out has transformers'
// default, but for sizes, which must be there. Throws Error{kConfig} naming the file, the field and
// why it cannot be. Rules of the family are left to check(), after set_family().
ModelArgs model_args_from_hf_config(const std::string& path);
// eos_token_id of a config.json, if it has one.
std::optional<int64_t> hf_config_eos_id(const std::string& path);
// All of them, in the order of the file.
std::vector<int64_t> hf_config_eos_ids(const std::string& path);

struct JobConfig;
// Flavor, or model.torchtitan_args or model.hf_config, then [model_overrides], then [numerics];
// max_seq_len is training.seq_len. Throws Error{kConfig} as check() does.
ModelArgs resolve_model_args(const JobConfig&);

}  // namespace nereus
