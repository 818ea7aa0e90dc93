// NumPy's .npy files of integers (format 1.0 to 3.0), one dim or more, C order, little endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nereus::data {

// All elements, flattened. Throws Error{kConfig} that names the file and what is wrong.
std::vector<int64_t> read_npy(const std::string& path);

}  // namespace nereus::data
