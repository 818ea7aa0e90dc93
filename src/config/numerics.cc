#include "config/numerics.h"

namespace nereus {

Numerics numerics_of(NumericsFamily family) {
  switch (family) {
    case NumericsFamily::torchtitan:
      return {.family = family,
              .final_norm_eps = 1.1920929e-07};  // torch's default: the last norm is given none
    case NumericsFamily::huggingface:
      return {.family = family,
              .round_normalized = true,
              .f32_router = true,
              .softmax_scores = false,
              .expert_groups = true,
              .fixed_expert_bias = true,
              .yarn = YarnRule::where_configured,
              .latent_norm_eps = 1e-6};  // the norms of the latents are made without config.json's
  }
  return {};
}

}  // namespace nereus
