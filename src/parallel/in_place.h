// Shards inside of what they are gathered into and reduced from, where unsharded weights or
// gradients are there for the whole step: a rank's bf16 copies are its blocks of the gathered
// weights, and its reduced gradients its blocks of the unsharded ones. Neither needs memory of its
// own.
//
// Reduced gradients are moved together afterwards, to the start of their block, in the order of the
// flat buffers (StoreLayout): tensors lie in that order here too, `slack` elements behind it, so
// that each moves towards the start into what has been moved already.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/store_layout.h"

namespace nereus {

struct InPlace {
  bool copies = false, gradients = false;
  // By tensor: where it begins, unsharded, in elements of its block; and the block's elements.
  // Tensors without a copy have no place among the copies.
  std::vector<int64_t> copy_begin, gradient_begin;
  int64_t copy_elements = 0, gradient_elements = 0;
  std::vector<size_t> by_offset;  // tensors in the order of the flat buffers
};

// With nothing divided there is nothing that lies inside of something larger: both stay false.
InPlace in_place(const StoreLayout&, bool copies, bool gradients);

}  // namespace nereus
