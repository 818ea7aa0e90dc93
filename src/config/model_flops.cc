#include "config/model_flops.h"

namespace nereus {

ModelSize model_size(const ModelArgs& a) {
  const int64_t D = a.dim, H = a.n_heads, Dqk = a.qk_head_dim();
  const int64_t q = a.q_lora_rank == 0
                        ? D * H * Dqk
                        : D * a.q_lora_rank + a.q_lora_rank + a.q_lora_rank * H * Dqk;
  const int64_t kv = D * (a.kv_lora_rank + a.qk_rope_head_dim) + a.kv_lora_rank +
                     a.kv_lora_rank * H * (a.qk_nope_head_dim + a.v_head_dim);
  const int64_t attention = q + kv + H * a.v_head_dim * D;
  const int64_t experts = a.n_layers - a.n_dense_layers;
  ModelSize s;
  s.embedding = a.vocab_size * D;
  s.dense = a.n_layers * (attention + 2 * D) + a.n_dense_layers * 3 * D * a.inter_dim + D +
            a.vocab_size * D;
  s.router = experts * a.moe.num_experts * D;
  s.shared_experts = experts * 3 * D * a.moe_inter_dim * a.moe.num_shared_experts;
  s.routed_experts = experts * 3 * D * a.moe_inter_dim * a.moe.num_experts;
  s.active = s.embedding + s.dense + s.router + s.shared_experts +
             (experts == 0 ? 0 : s.routed_experts * a.moe.top_k / a.moe.num_experts);
  return s;
}

FlopsPerToken flops_per_token(const ModelArgs& a, int64_t sequence) {
  const ModelSize s = model_size(a);
  const int64_t gemms = 6 * (s.active - s.embedding);
  const int64_t L = a.n_layers, H = a.n_heads, widths = a.qk_head_dim() + a.v_head_dim;
  return {.torchtitan = gemms + 12 * L * H * (a.dim / H) * sequence,
          .non_causal = gemms + 6 * L * H * widths * sequence,
          .causal = gemms + 3 * L * H * widths * sequence};
}

double masked_flops_per_token(const ModelArgs& a, double pairs) {
  const ModelSize s = model_size(a);
  return static_cast<double>(6 * (s.active - s.embedding)) +
         static_cast<double>(6 * a.n_layers * a.n_heads * (a.qk_head_dim() + a.v_head_dim)) * pairs;
}

double document_pairs(std::span<const int32_t> ids, int64_t sequence, int32_t eos_id) {
  double squares = 0;
  int64_t length = 0, place = 0;
  for (const int32_t id : ids) {
    ++length;
    ++place;
    if (id != eos_id && place < sequence) continue;
    squares += static_cast<double>(length * length);
    length = 0;
    if (place == sequence) place = 0;
  }
  return squares / 2;
}

}  // namespace nereus
