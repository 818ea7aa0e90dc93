// Are weights those of the model that is to read them? The shapes of tensors say nothing of the
// routing, the rotary embedding or the norms; config.json beside the weights does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/model_args.h"

namespace nereus {

// config.json of weights as HfWeights::open() takes them, a folder or a file; none: no such file.
std::optional<std::string> config_beside(const std::string& weights);

// Whose weights they are. Others' files and TorchTitan's flavors give one model other small eps of
// its norms (1e-6 and 1e-5), which is no difference there.
enum class WeightsOf : uint8_t { this_run, others };

// What changes the model's arithmetic, one line each with both values, in TorchTitan's names and,
// where it is called otherwise, config.json's; empty for the same model. `file` is what
// model_args_from_hf_config() made of it.
//
// Not compared: what config.json cannot say (hf_config.h), names, the vocabulary's size (shapes
// show it), max_position_embeddings, and what the run's family does not use: in TorchTitan's the
// groups of experts, and YaRN's being off or on where the length of the run's sequences decides it.
std::vector<std::string> model_differences(const ModelArgs& file, const ModelArgs& run, WeightsOf);

}  // namespace nereus
