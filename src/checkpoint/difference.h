// Where the tensors of two checkpoints differ. Tensors with the same shape, type and checksum are
// the same and are not read.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace nereus {

struct TensorDifference {
  std::string name;
  SavedState state = SavedState::model;
  std::string what = {};      // "only in the first", "only in the second", another shape; else
  int64_t count = 0, of = 0;  // elements that differ, of so many
  int64_t first = 0, largest_at = 0;  // row-major index of the first, and of the largest
  double largest = 0;                 // |a - b|; NaN where only one of them is
};

// `progress`, if there is one, hears of each tensor before it is looked at: how many there are.
std::vector<TensorDifference> tensor_differences(
    const std::string& a_folder, const Manifest& a, const std::string& b_folder, const Manifest& b,
    const std::function<void(size_t done, size_t of)>& progress = {});

}  // namespace nereus
