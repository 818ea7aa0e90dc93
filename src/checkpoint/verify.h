// Is a checkpoint as it was written? Slices are read again and their checksums compared.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace nereus {

// What is wrong with each slice of tensor `index` that is not as it was written, a line each.
std::vector<std::string> verify_tensor(const std::string& folder, const Manifest&, size_t index);

// What is wrong with a tensor that did not have its checksum when it was loaded.
std::string find_damage(const std::string& folder, const Manifest&, size_t index);

}  // namespace nereus
