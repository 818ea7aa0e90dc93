// Runs forward, and backward when gradients are asked for, on given tokens and writes what a model
// makes of them under Hugging Face's names: how numerics are compared with anything else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device/device.h"
#include "tensor/dtype.h"

namespace nereus {

struct ProbeOptions {
  std::string model;   // --hf: a folder (or file) of Hugging Face weights
  std::string tokens;  // safetensors: input_ids [B,S], or inputs and labels [B,S]
  std::string output;  // safetensors: logits, loss, hidden.*, attn_out.*, mlp_out.*, router.*
  std::optional<std::string> grads;  // safetensors: d loss / d weight
  std::optional<std::string> args;   // torchtitan_args.json in place of config.json's sizes
  std::optional<int64_t> eos_id;     // ends a document; else config.json's
  DType compute = DType::f32;
};

// Files are written under a second name and renamed. Throws Error{kConfig} for what the user can
// correct.
void probe(Stream&, const ProbeOptions&);

}  // namespace nereus
