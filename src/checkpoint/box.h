// A box of a tensor in three dims: panels (experts), rows, columns. A tensor of one dim is rows of
// one column.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "tensor/tensor.h"

namespace nereus {

struct Box {
  std::array<int64_t, 3> origin{}, extent{1, 1, 1};

  int64_t end(size_t d) const { return origin[d] + extent[d]; }
  int64_t count() const { return extent[0] * extent[1] * extent[2]; }
  // Elements before [panel, row, column] (of the tensor) in the box, row-major.
  int64_t place(int64_t panel, int64_t row, int64_t column) const {
    return ((panel - origin[0]) * extent[1] + row - origin[1]) * extent[2] + column - origin[2];
  }
};

// `origin` without dims: from the beginning.
inline Box box_of(const Shape& origin, const Shape& extent) {
  Box out;
  const size_t first = extent.rank() == 3 ? 0 : 1;
  for (int d = 0; d < extent.rank(); ++d) {
    out.origin[first + static_cast<size_t>(d)] = origin.rank() > 0 ? origin[d] : 0;
    out.extent[first + static_cast<size_t>(d)] = extent[d];
  }
  return out;
}

inline Box intersection(const Box& a, const Box& b) {
  Box out;
  for (size_t d = 0; d < 3; ++d) {
    out.origin[d] = std::max(a.origin[d], b.origin[d]);
    out.extent[d] = std::max<int64_t>(0, std::min(a.end(d), b.end(d)) - out.origin[d]);
  }
  return out;
}

}  // namespace nereus
