// The checksum of a box of a tensor: over its elements i, mod 2^64,
//
//   sum of bits(i) * (2 index(i) + 1)
//
// with an element's bits as an unsigned integer and its index in the whole tensor, row-major. So
// the sum over the boxes that make up a tensor is the same however it is cut: a rank that reads
// parts of other ranks' boxes adds up what it read, and the sum over ranks is the tensor's. One
// changed element, or two that changed places, never go unnoticed: their difference times an odd
// factor is not 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "checkpoint/box.h"

namespace nereus {

// Of `n` elements of 2 or 4 bytes each, of any alignment, whose indices follow each other from
// `first` on.
uint64_t checksum(const std::byte* elements, int64_t size, int64_t n, int64_t first);

// Of elements [at, at + n) of a box of a tensor, row-major; they lie at `data`.
uint64_t checksum_of(const Box& whole, const Box& box, int64_t at, int64_t n, int64_t size,
                     const std::byte* data);

}  // namespace nereus
