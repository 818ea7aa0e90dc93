// The weights of a native checkpoint under Hugging Face's names, piece by piece: what a conversion
// to Hugging Face's layout reads. Slices are put together as they are read, and the checksum of
// every tensor that was read as a whole is compared.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/weight_source.h"

namespace nereus {

// Tensors besides the model's that a conversion kept: `unused_tensors` of the manifest's run, by
// name the file that they are in.
inline constexpr const char* kUnusedTensors = "unused_tensors";

// The manifest must outlive it. Throws Error{kConfig} for a checkpoint without the model's weights,
// Error{kIo} for files that cannot be read, or a tensor that is not as it was written.
std::unique_ptr<WeightSource> native_source(const std::string& folder, const Manifest&);

}  // namespace nereus
