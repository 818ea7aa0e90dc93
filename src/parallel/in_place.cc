#include "parallel/in_place.h"

#include <algorithm>
#include <numeric>

namespace nereus {

InPlace in_place(const StoreLayout& layout, bool copies, bool gradients) {
  InPlace out;
  bool divided = false;
  int64_t largest = 0;
  for (size_t i = 0; i < layout.size(); ++i) {
    divided = divided || layout.divided(i);
    largest = std::max(largest, layout.shard_shape(i).count());
  }
  out.copies = copies && divided;
  out.gradients = gradients && divided;
  out.by_offset.resize(layout.size());
  std::iota(out.by_offset.begin(), out.by_offset.end(), 0);
  std::sort(out.by_offset.begin(), out.by_offset.end(),
            [&](size_t a, size_t b) { return layout.offset(a) < layout.offset(b); });
  out.copy_begin.resize(layout.size());
  out.gradient_begin.resize(layout.size());
  // Moved by less than its own size, a tensor is moved in parts: not more than these.
  constexpr int64_t kParts = 64;
  out.gradient_elements = StoreLayout::aligned(largest / kParts + 1);
  for (const size_t i : out.by_offset) {
    const int64_t whole = StoreLayout::aligned(layout.padded_shape(i).count());
    out.gradient_begin[i] = out.gradient_elements;
    out.gradient_elements += whole;
    if (layout.read_format(i) != ReadFormat::bf16_copy) continue;
    out.copy_begin[i] = out.copy_elements;
    out.copy_elements += whole;
  }
  return out;
}

}  // namespace nereus
