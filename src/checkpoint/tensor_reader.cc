#include "checkpoint/tensor_reader.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace nereus {

void TensorReader::read(size_t tensor, const Box& box, std::byte* out) {
  const Manifest::Tensor& t = manifest_.tensors[tensor];
  int64_t found = 0;
  for (const Manifest::Slice& s : t.slices) {
    const Box part = intersection(box, box_of(s.origin, s.extent));
    if (part.count() == 0) continue;
    read_part(t, s, part, box, out);
    found += part.count();
  }
  NEREUS_CHECK(kIo, found == box.count(), "{} of {}: {} elements of {} are in the checkpoint",
               name_of(t.state), t.name, found, box.count());
}

// Part `part` of a saved slice to its place in `box`, which has one panel.
void TensorReader::read_part(const Manifest::Tensor& t, const Manifest::Slice& s, const Box& part,
                             const Box& box, std::byte* out) {
  const Box from = box_of(s.origin, s.extent);
  constexpr int64_t kChunk = int64_t{4} << 20;
  constexpr int64_t kWorthOneRead = 4096;  // bytes
  const int64_t size = size_of(t.dtype), width = part.extent[2], rows = part.extent[1];
  const int64_t p = part.origin[0], r = part.origin[1], c = part.origin[2];
  const int64_t first = s.offset + from.place(p, r, c) * size;
  std::byte* const to = out + box.place(p, r, c) * size;
  const bool whole_rows = width == from.extent[2];
  if (whole_rows && width == box.extent[2])
    return files_.read(s.file, first, rows * width * size, to);
  const int64_t from_row = from.extent[2] * size, to_row = box.extent[2] * size;
  if (!whole_rows && width * size >= kWorthOneRead) {
    for (int64_t i = 0; i < rows; ++i)
      files_.read(s.file, first + i * from_row, width * size, to + i * to_row);
    return;
  }
  // Rows as they are in the file, of which columns are picked.
  const int64_t step = std::max<int64_t>(1, kChunk / from_row);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t n = std::min(step, rows - row);
    const int64_t bytes = (n - 1) * from_row + width * size;
    picked_.resize(static_cast<size_t>(bytes));
    files_.read(s.file, first + row * from_row, bytes, picked_.data());
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(to + (row + i) * to_row, picked_.data() + i * from_row,
                  static_cast<size_t>(width * size));
  }
}

}  // namespace nereus
