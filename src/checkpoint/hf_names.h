// Our names of parameters (TorchTitan's) and Hugging Face's DeepSeek-V3 names. Shapes are the same
// on both sides, (out, in), and no rows are permuted; but Hugging Face stores the experts of a
// layer one by one where ours are a tensor with the expert first:
//
//   layers.3.moe.experts.w1                              [E, F, D], here
//   model.layers.3.mlp.experts.{0..E-1}.gate_proj.weight [F, D] each, at Hugging Face
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace nereus {

struct LogicalName {
  std::string name;
  int64_t expert = -1;  // -1: the whole parameter
};

// Are the parameter's experts tensors of their own at Hugging Face?
bool has_experts(std::string_view logical);

// The name at Hugging Face; `expert` is used where has_experts(). Throws Error{kContract} for a
// name that no parameter has.
std::string hf_name(std::string_view logical, int64_t expert = 0);

// The names at Hugging Face of a parameter with this view: one, or one for each expert, in order.
std::vector<std::string> hf_names_of(std::string_view logical, const ConstTensorView& view);

// The way back; nothing for a name that is no parameter of ours (rotary tables, multi-token
// prediction). Any layer and expert number is accepted.
std::optional<LogicalName> logical_name(std::string_view hf);

}  // namespace nereus
