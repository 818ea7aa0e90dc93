#include "checkpoint/difference.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "checkpoint/tensor_reader.h"
#include "tensor/convert.h"
#include "tensor/format.h"

namespace nereus {
namespace {

// A part of a tensor in f32.
std::vector<float> floats(TensorReader& reader, const Manifest& m, size_t tensor, const Box& box) {
  const DType dtype = m.tensors[tensor].dtype;
  std::vector<std::byte> raw(static_cast<size_t>(box.count() * size_of(dtype)));
  reader.read(tensor, box, raw.data());
  std::vector<float> out(static_cast<size_t>(box.count()));
  convert_to_f32(dtype, raw.data(), box.count(), out.data());
  return out;
}

void compare(TensorDifference& d, const std::vector<float>& a, const std::vector<float>& b,
             int64_t index) {
  for (size_t i = 0; i < a.size(); ++i, ++index) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double apart = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (d.count++ == 0) d.first = index;
    if (std::isnan(d.largest) || !(apart > d.largest || std::isnan(apart))) continue;
    d.largest = apart;
    d.largest_at = index;
  }
}

}  // namespace

std::vector<TensorDifference> tensor_differences(
    const std::string& a_folder, const Manifest& a, const std::string& b_folder, const Manifest& b,
    const std::function<void(size_t done, size_t of)>& progress) {
  constexpr int64_t kChunk = int64_t{4} << 20;  // elements
  std::map<std::pair<std::string, SavedState>, size_t> others;
  for (size_t i = 0; i < b.tensors.size(); ++i) others[{b.tensors[i].name, b.tensors[i].state}] = i;
  TensorReader read_a(a_folder, a), read_b(b_folder, b);
  std::vector<TensorDifference> out;
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (progress) progress(i, a.tensors.size());
    const Manifest::Tensor& t = a.tensors[i];
    TensorDifference d{.name = t.name, .state = t.state, .of = t.shape.count()};
    const auto it = others.find({t.name, t.state});
    if (it == others.end()) {
      d.what = "only in the first";
      out.push_back(d);
      continue;
    }
    const size_t other = it->second;
    const Manifest::Tensor& o = b.tensors[other];
    others.erase(it);
    if (!(t.shape == o.shape)) {
      d.what = fmt::format("{} and {}", t.shape, o.shape);
      out.push_back(d);
      continue;
    }
    if (t.dtype == o.dtype && t.checksum() == o.checksum()) continue;
    const Box all = box_of({}, t.shape);
    const int64_t step = std::max<int64_t>(1, kChunk / all.extent[2]);
    for (int64_t panel = 0; panel < all.extent[0]; ++panel)
      for (int64_t row = 0; row < all.extent[1]; row += step) {
        Box box = all;
        box.origin = {panel, row, 0};
        box.extent = {1, std::min(step, all.extent[1] - row), all.extent[2]};
        compare(d, floats(read_a, a, i, box), floats(read_b, b, other, box),
                all.place(panel, row, 0));
      }
    if (d.count > 0) out.push_back(d);
  }
  for (const auto& [name, index] : others)
    out.push_back({.name = name.first,
                   .state = name.second,
                   .what = "only in the second",
                   .of = b.tensors[index].shape.count()});
  return out;
}

}  // namespace nereus
