// Where the references of this architecture compute different numbers, one value for each
// difference (docs/numerics.md has the table). A layer asks for the value that concerns it and
// never for the reference: another family of models is another row in numerics.cc.
#pragma once

#include <cstdint>
#include <optional>

#include "config/choices.h"

namespace nereus {

// When YaRN changes the rotary frequencies, and what its mscales multiply.
enum class YarnRule : uint8_t {
  beyond_original_length,  // when max_seq_len > original_seq_len; mscale scales the softmax
  where_configured,  // as config.json says, at every length; both mscales (config/model_args.h)
};

struct Numerics {
  NumericsFamily family =
      NumericsFamily::torchtitan;  // for messages and for files that are written
  // Norms: the normalised value is rounded to the compute type before it is weighted.
  bool round_normalized = false;
  // The router's weights, product and logits are f32 whatever the compute type is.
  bool f32_router = false;
  // Scores may be a softmax as well as a sigmoid.
  bool softmax_scores = true;
  // Only experts of the n_limited_groups best of n_expert_groups may be chosen; false: the two
  // numbers are declared and not used.
  bool expert_groups = false;
  // Layers of experts have a bias even where nothing updates it.
  bool fixed_expert_bias = false;
  YarnRule yarn = YarnRule::beyond_original_length;
  // eps of the norms of the latents and of the last norm; none: the model's norm_eps.
  std::optional<double> latent_norm_eps = {};
  std::optional<double> final_norm_eps = {};
};

Numerics numerics_of(NumericsFamily);

}  // namespace nereus
