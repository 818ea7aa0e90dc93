// Sizes and copies that the backends share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/tensor.h"

namespace nereus {

// Of one row along dim 0.
inline int64_t row_bytes(ConstTensorView x) {
  int64_t bytes = size_of(x.dtype);
  for (int i = 1; i < x.rank(); ++i) bytes *= x.dim(i);
  return bytes;
}

// Host memory; nothing where it is there already.
inline void copy_bytes(std::byte* to, const std::byte* from, int64_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace nereus
