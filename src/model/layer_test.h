// What the tests of single layers share: the memory of a microbatch's passes, poisoned before each,
// tensors with and without contents, and judges' arithmetic in double.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "device/device.h"
#include "parallel/layer_context.h"
#include "test/test_tensor.h"

namespace nereus::test {

// A stream of the CPU and the three arenas. All of them are NaN (or -1) before reset() returns, so
// that a pass that reads what no pass has written shows.
class LayerMemory {
 public:
  explicit LayerMemory(int64_t scratch_bytes = kBytes)
      : stream_(Device::cpu(), &pool()),
        memory_(Device::cpu(), 2 * kBytes + scratch_bytes, "a test"),
        input_("input", memory_.data(), kBytes),
        weight_("weight", memory_.data() + kBytes, kBytes),
        scratch_("scratch", memory_.data() + 2 * kBytes, scratch_bytes) {
    reset();
  }

  Context context(bool accumulate = false) {
    return {stream_, input_, weight_, scratch_, accumulate};
  }
  Stream& stream() { return stream_; }
  // What may happen between dgrad and wgrad.
  void release_input() {
    const int64_t bytes = input_.used_bytes();
    input_.release(0);
    std::memset(memory_.data(), 0xff, static_cast<size_t>(bytes));
  }
  // A new microbatch.
  void reset() {
    input_.release(0);
    weight_.release(0);
    std::memset(memory_.data(), 0xff, static_cast<size_t>(memory_.bytes()));
  }

 private:
  static constexpr int64_t kBytes = 1 << 18;
  Stream stream_;
  Buffer memory_;
  Arena input_, weight_, scratch_;
};

inline Tensor normal(uint64_t seed, const Shape& shape, double std = 1, DType dtype = DType::f32,
                     double mean = 0) {
  return Tensor(Device::cpu(), dtype, shape).fill_normal(seed, mean, std);
}
inline Tensor poisoned(const Shape& shape, DType dtype = DType::f32) {
  return Tensor(Device::cpu(), dtype, shape).poison();
}
inline Tensor integers(const std::vector<double>& values) {
  Tensor out(Device::cpu(), DType::i32, {static_cast<int64_t>(values.size())});
  out.set(values);
  return out;
}

using Values = std::vector<double>;

// y[rows, out] = x[rows, in] w[out, in]^T, row-major.
inline Values product(const Values& x, const Values& w, size_t in) {
  const size_t rows = x.size() / in, out = w.size() / in;
  Values y(rows * out);
  for (size_t r = 0; r < rows; ++r)
    for (size_t o = 0; o < out; ++o)
      for (size_t i = 0; i < in; ++i) y[r * out + o] += x[r * in + i] * w[o * in + i];
  return y;
}

// Columns [begin, end) of rows of `width`.
inline Values columns(const Values& x, size_t width, size_t begin, size_t end) {
  Values out;
  for (size_t r = 0; r < x.size() / width; ++r)
    for (size_t c = begin; c < end; ++c) out.push_back(x[r * width + c]);
  return out;
}

// Each row divided by the root of its mean square, then weighted.
inline Values rms_normalised(const Values& x, const Values& weight, double eps) {
  const size_t D = weight.size();
  Values y(x.size());
  for (size_t r = 0; r < x.size() / D; ++r) {
    double sum = 0;
    for (size_t d = 0; d < D; ++d) sum += x[r * D + d] * x[r * D + d];
    const double rstd = 1 / std::sqrt(sum / static_cast<double>(D) + eps);
    for (size_t d = 0; d < D; ++d) y[r * D + d] = x[r * D + d] * rstd * weight[d];
  }
  return y;
}

inline double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// The derivative of f by every element of x, which f reads: central differences, in double good to
// about nine digits.
inline Values derivatives(Values& x, const std::function<double()>& f) {
  constexpr double kStep = 1e-5;
  Values out;
  for (double& element : x) {
    const double here = element;
    element = here + kStep;
    const double above = f();
    element = here - kStep;
    const double below = f();
    element = here;
    out.push_back((above - below) / (2 * kStep));
  }
  return out;
}

}  // namespace nereus::test
