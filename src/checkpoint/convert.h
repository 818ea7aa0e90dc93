// Weights from one form to another, file by file and piece by piece: a few pieces are in memory,
// whatever the model's size.
//
// To Hugging Face's layout: every tensor of the source under the usual names (hf_forms.h), those
// that training does not use as well (multi-token prediction, model.layers.61.* of DeepSeek-V3).
// Elements take the type that is asked for; without one they keep theirs, but for FP8, which
// becomes bf16: w[i, j] = q[i, j] * weight_scale_inv[i / 128, j / 128]. The routers' correction
// biases and rotary tables keep theirs always, as do integers. config.json says the new type and no
// quantization; what else the folder has beside weights (the tokenizer, ...) is copied.
//
// To a native checkpoint of weights alone: the same, under the model's own names, with a manifest.
// Tensors that training does not use are in its files under Hugging Face's names and come out again
// (native_source.h). Of a native source the weights are read, moments are not.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/hf_weights.h"
#include "tensor/dtype.h"

namespace nereus {

struct ConvertRequest {
  enum class Format : uint8_t { hf, native };
  std::string from;  // as HfWeights::open() takes it, or a native checkpoint
  std::string to;    // a folder that is not there, or empty
  std::optional<DType> dtype = std::nullopt;  // f32, bf16 or f16; none: that of the source
  int64_t shard_bytes = kShardBytes;
  Format format = Format::hf;
  std::string run = "{}";        // of a native result: what its manifest says of its run
  std::string config_json = {};  // where the source's folder has none
};

// Is there a native checkpoint (manifest.h)?
bool is_native_checkpoint(const std::string& folder);

// What a conversion would write.
struct ConversionPlan {
  size_t tensors = 0, scaled = 0;   // all of them; FP8 with scales
  std::vector<std::string> unused;  // that training does not use, of them
  int64_t bytes = 0, largest = 0;   // of all tensors, and of one
  size_t files = 0;
};
// Reads the headers of the files alone. Throws as convert_weights() does for weights.
ConversionPlan plan_conversion(const ConvertRequest&);

struct ConvertProgress {
  int64_t bytes = 0, of_bytes = 0;  // of tensors written, those of an interrupted run too
  int64_t found = 0;                // of them, what an interrupted run had written
  size_t files = 0, of_files = 0;   // complete
};

// The folder `to` is complete, or `to`.partial has the files that are, and the same call goes on
// from them. Throws Error{kConfig}: weights that cannot be read, a place that is taken, too little
// space; kIo while writing.
ConvertProgress convert_weights(const ConvertRequest&,
                                const std::function<void(const ConvertProgress&)>& report);

}  // namespace nereus
