// Parameters by kind and floating-point operations a token, in closed form.
#pragma once

#include <span>

#include "config/model_args.h"

namespace nereus {

struct ModelSize {
  int64_t embedding = 0;  // tok_embeddings
  int64_t dense = 0;      // attention, norms, dense feed-forward, head
  int64_t router = 0;
  int64_t shared_experts = 0;
  int64_t routed_experts = 0;
  int64_t active =
      0;  // TorchTitan's: embedding + dense + router + shared + routed * top_k / experts

  int64_t total() const { return embedding + dense + router + shared_experts + routed_experts; }
  int64_t torchtitan_dense() const { return embedding + dense; }
  int64_t sparse() const { return router + shared_experts + routed_experts; }
};

ModelSize model_size(const ModelArgs&);

// Forward and backward, without recompute. N = active - embedding parameters; L layers, H heads.
struct FlopsPerToken {
  int64_t torchtitan;  // 6 N + 12 L H floor(dim / H) S: the pinned commit's, and the step line's
  int64_t non_causal;  // 6 N + 6 L H (Dqk + Dv) S: TorchTitan's later formula
  int64_t causal;      // 6 N + 3 L H (Dqk + Dv) S: half the scores are masked
};

FlopsPerToken flops_per_token(const ModelArgs&, int64_t sequence);

// The work that a mask leaves, where a query attends to `pairs` keys in the mean:
// 6 N + 6 L H (Dqk + Dv) pairs. A causal mask has S / 2 (FlopsPerToken::causal).
double masked_flops_per_token(const ModelArgs&, double pairs);

// Pairs of queries and keys in rows of `sequence` ids: half the square of each document's length,
// as the causal mask counts half of a row's. `eos_id` ends a document and belongs to it.
double document_pairs(std::span<const int32_t> ids, int64_t sequence, int32_t eos_id);

}  // namespace nereus
