// Finds the first tensor of a step that holds NaN or Inf, after the step turned out not to be
// finite.
#pragma once

#include <span>
#include <string>

#include "engine/engine.h"

namespace nereus {

// Looks, in this order, at the weights, at what the forward pass of each microbatch makes (run
// again: the weights were not updated), and at the gradients, which must be those of the step.
// Returns for example
//   "layers.2 mlp_out of microbatch 0 has 17 NaN and 3 Inf among 65536 values"
// or "" when all are finite. A collective of `world`, all ranks: what comes first on any rank, with
// the rank, on all of them. CPU and GPU; waits for the stream.
std::string first_nonfinite(Stream&, Engine&, std::span<const HostMicrobatch>, TensorView loss,
                            Communicator& world);

}  // namespace nereus
