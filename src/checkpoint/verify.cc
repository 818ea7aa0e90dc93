#include "checkpoint/verify.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "checkpoint/box.h"
#include "checkpoint/checksum.h"
#include "checkpoint/slice_files.h"

namespace nereus {

std::vector<std::string> verify_tensor(const std::string& folder, const Manifest& m, size_t index) {
  constexpr int64_t kChunk = int64_t{4} << 20;  // elements
  const Manifest::Tensor& t = m.tensors[index];
  const int64_t size = size_of(t.dtype);
  SliceFiles files(folder, m);
  std::vector<std::byte> data;
  std::vector<std::string> out;
  for (const Manifest::Slice& s : t.slices) {
    uint64_t sum = 0;
    const Box box = box_of(s.origin, s.extent);
    try {
      for (int64_t at = 0; at < box.count(); at += kChunk) {
        const int64_t n = std::min(kChunk, box.count() - at);
        data.resize(static_cast<size_t>(n * size));
        files.read(s.file, s.offset + at * size, n * size, data.data());
        sum += checksum_of(box_of({}, t.shape), box, at, n, size, data.data());
      }
    } catch (const Error& e) {
      out.emplace_back(e.what());
      continue;
    }
    if (sum != s.checksum)
      out.push_back(
          fmt::format("{}: {} of {}, {} at byte {}, has checksum {:016x}, {:016x} when "
                      "it was written",
                      files.path(s.file), name_of(t.state), t.name,
                      size_text(s.extent.count() * size), s.offset, sum, s.checksum));
  }
  return out;
}

std::string find_damage(const std::string& folder, const Manifest& m, size_t index) {
  const std::vector<std::string> lines = verify_tensor(folder, m, index);
  if (!lines.empty()) return lines.front();
  const Manifest::Tensor& t = m.tensors[index];
  return fmt::format("{}: {} of {} did not have its checksum when it was loaded", folder,
                     name_of(t.state), t.name);
}

}  // namespace nereus
