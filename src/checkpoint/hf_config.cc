#include "checkpoint/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace nereus {
namespace {

using Json = nlohmann::json;

Json rope_scaling(const ModelArgs& a) {
  if (!rope_parameters(a).yarn) return nullptr;
  Json json = {{"type", "yarn"},
               {"factor", a.rope_factor},
               {"beta_fast", a.beta_fast},
               {"beta_slow", a.beta_slow},
               {"original_max_position_embeddings", a.original_seq_len}};
  if (a.numerics.yarn == YarnRule::beyond_original_length) {
    // TorchTitan's one mscale scales the softmax, as mscale_all_dim does here; equal values leave
    // cos and sin as they are.
    json["mscale"] = a.mscale;
    json["mscale_all_dim"] = a.mscale;
    return json;
  }
  if (a.hf_mscale_given) json["mscale"] = a.mscale;
  if (a.hf_mscale_all_dim != 0) json["mscale_all_dim"] = a.hf_mscale_all_dim;
  return json;
}

// What config.json said, or the run's sequences where they are longer.
int64_t longest_sequence(const ModelArgs& a) {
  if (a.numerics.yarn == YarnRule::beyond_original_length) return a.max_seq_len;
  const auto reach =
      static_cast<double>(a.original_seq_len) * (rope_parameters(a).yarn ? a.rope_factor : 1);
  return std::max(a.max_seq_len, static_cast<int64_t>(reach));
}

const char* torch_name(DType t) {
  switch (t) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      NEREUS_FAIL(kContract, "config.json has no name for {}", name_of(t));
  }
}

}  // namespace

std::string hf_config_json(const ModelArgs& a, DType dtype) {
  // TorchTitan declares groups and ignores them; Hugging Face would use them.
  const bool groups = a.numerics.expert_groups;
  Json json = {
      {"architectures", {"DeepseekV3ForCausalLM"}},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"ep_size", 1},
      {"first_k_dense_replace", a.n_dense_layers},
      {"hidden_act", "silu"},
      {"hidden_size", a.dim},
      {"initializer_range", 0.02},
      {"intermediate_size", a.inter_dim},
      {"kv_lora_rank", a.kv_lora_rank},
      {"max_position_embeddings", longest_sequence(a)},
      {"model_type", "deepseek_v3"},
      {"moe_intermediate_size", a.moe_inter_dim},
      {"moe_layer_freq", 1},
      {"n_group", groups ? a.n_expert_groups : 1},
      {"n_routed_experts", a.moe.num_experts},
      {"n_shared_experts", a.moe.num_shared_experts},
      {"norm_topk_prob", a.moe.route_norm},
      {"num_attention_heads", a.n_heads},
      {"num_experts_per_tok", a.moe.top_k},
      {"num_hidden_layers", a.n_layers},
      {"num_key_value_heads", a.n_heads},
      {"num_nextn_predict_layers", 0},
      {"q_lora_rank", a.q_lora_rank == 0 ? Json(nullptr) : Json(a.q_lora_rank)},
      {"qk_nope_head_dim", a.qk_nope_head_dim},
      {"qk_rope_head_dim", a.qk_rope_head_dim},
      {"rms_norm_eps", a.norm_eps},
      {"rope_scaling", rope_scaling(a)},
      {"rope_theta", a.rope_theta},
      {"routed_scaling_factor", a.moe.route_scale},
      {"scoring_func", word(a.moe.score_func)},
      {"tie_word_embeddings", false},
      {"topk_group", groups ? a.n_limited_groups : 1},
      {"topk_method", "noaux_tc"},
      {"torch_dtype", torch_name(dtype)},
      {"v_head_dim", a.v_head_dim},
      {"vocab_size", a.vocab_size},
  };
  if (a.eos_id >= 0) json["eos_token_id"] = a.eos_id;
  return json.dump(2) + "\n";
}

}  // namespace nereus
