// Other forms in which the tensors of a DeepSeek-V3 model are published, and the one that the rest
// of this folder knows (hf_names.h). All work on names, shapes and spans; nothing is read.
//
//   a prefix       model.language_model.layers.3...   in place of   model.layers.3...
//   fused experts  mlp.experts.gate_up_proj [E, 2 F, D]: of each expert the gate's F rows, then
//                  up's; mlp.experts.down_proj [E, D, F]. As transformers 5 keeps them in memory;
//                  also with `.weight` behind, and FP8 with scales of blocks [E, 2 F / b, D / b],
//                  of rows [E, 2 F, 1] or [E, 2 F], or of experts [E, 1, 1], [E, 1] or [E]
//   packed         4-bit integers in words: recognised, so that they can be refused by name
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "tensor/safetensors.h"

namespace nereus {

// What stands before the model's own names: `body` in place of "model.", `head` before "lm_head.".
struct NamePrefix {
  std::string body = "model.", head;

  bool usual() const { return body == "model." && head.empty(); }
  std::string without(const std::string& name) const;  // a name without it
};
// By where the embedding's weight and the head's are among the names.
NamePrefix prefix_of(std::span<const std::string> names);

// The experts' own tensors in a fused one, or in its scales, which name their bytes; none when it
// is no such tensor.
std::vector<SafetensorsEntry> expert_parts(const SafetensorsEntry&);

// Which of a checkpoint's names training has no use for, though they belong to the model: rotary
// tables, and the layers of multi-token prediction, which are known by their eh_proj.
std::unordered_set<std::string> unused_names(std::span<const std::string> names);

// Is it a part of a tensor that is packed into 4-bit integers or floats?
bool is_packed(std::string_view name);

}  // namespace nereus
