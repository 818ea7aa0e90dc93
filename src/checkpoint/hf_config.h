// A Hugging Face config.json (DeepseekV3ForCausalLM) of a model, to be saved with its weights.
#pragma once

#include <string>

#include "config/model_args.h"
#include "tensor/dtype.h"

namespace nereus {

// What transformers, or Nereus, computes from it is the same model, as far as that form can say it:
// it has one eps for all norms, no document mask, no scores applied before the experts, and YaRN
// either on or off, for which args.max_seq_len decides in TorchTitan's family. `dtype` is the
// weights'.
std::string hf_config_json(const ModelArgs& args, DType dtype = DType::f32);

}  // namespace nereus
