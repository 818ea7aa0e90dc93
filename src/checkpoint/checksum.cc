#include "checkpoint/checksum.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace nereus {
namespace {

// With j from 0 in a block: sum of x (2 (first + j) + 1) = (2 first + 1) sum of x + 2 sum of x j.
template <class E>
uint64_t sum(const std::byte* data, int64_t n, int64_t first) {
  constexpr int64_t kBlock = 1 << 16;  // j and x are of 32 bits: one multiplication each
  uint64_t out = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const auto count = static_cast<uint32_t>(std::min(kBlock, n - begin));
    const std::byte* const block = data + begin * static_cast<int64_t>(sizeof(E));
    uint64_t plain[8] = {}, weighted[8] = {};
    uint32_t j = 0;
    for (; j + 8 <= count; j += 8) {
      E x[8];
      std::memcpy(x, block + j * sizeof(E), sizeof x);
      for (uint32_t k = 0; k < 8; ++k) {
        plain[k] += x[k];
        weighted[k] += uint64_t{static_cast<uint32_t>(x[k])} * uint64_t{j + k};
      }
    }
    for (uint32_t k = 1; k < 8; ++k) {
      plain[0] += plain[k];
      weighted[0] += weighted[k];
    }
    for (; j < count; ++j) {
      E x;
      std::memcpy(&x, block + j * sizeof(E), sizeof x);
      plain[0] += x;
      weighted[0] += uint64_t{static_cast<uint32_t>(x)} * uint64_t{j};
    }
    out += (2 * static_cast<uint64_t>(first + begin) + 1) * plain[0] + 2 * weighted[0];
  }
  return out;
}

}  // namespace

uint64_t checksum(const std::byte* elements, int64_t size, int64_t n, int64_t first) {
  NEREUS_CHECK(kContract, size == 2 || size == 4, "a checksum of elements of {} bytes", size);
  return size == 4 ? sum<uint32_t>(elements, n, first) : sum<uint16_t>(elements, n, first);
}

uint64_t checksum_of(const Box& whole, const Box& box, int64_t at, int64_t n, int64_t size,
                     const std::byte* data) {
  const int64_t width = box.extent[2], rows = box.extent[1];
  // As far as indices follow each other: a row, or all rows of a panel where they are whole.
  const int64_t run = width == whole.extent[2] ? rows * width : width;
  uint64_t sum = 0;
  for (int64_t e = at; e < at + n;) {
    const int64_t count = std::min(at + n - e, run - e % run);
    const int64_t row = e / width;
    const int64_t index = whole.place(box.origin[0] + row / rows, box.origin[1] + row % rows,
                                      box.origin[2] + e % width);
    sum += checksum(data + (e - at) * size, size, count, index);
    e += count;
  }
  return sum;
}

}  // namespace nereus
