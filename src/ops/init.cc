#include "ops/init.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"
#include "ops/init_math.h"

namespace nereus::ops {

void check(const InitNormal& a) {
  expect("init_normal", "out", a.out, DType::f32, a.out.shape);
  expect_contiguous("init_normal", "out", a.out);
  NEREUS_CHECK(kContract, a.std > 0 && a.low <= a.high && a.first >= 0,
               "init_normal: std {}, bounds [{}, {}], first element {}", a.std, a.low, a.high,
               a.first);
}

Probabilities probabilities(const InitNormal& a) {
  if (a.low == a.high) return {};
  const auto below = [&](float x) {
    const double z =
        (static_cast<double>(x) - static_cast<double>(a.mean)) / static_cast<double>(a.std);
    return 0.5 * std::erfc(-z / std::sqrt(2.0));
  };
  return {.low = static_cast<float>(below(a.low)),
          .width = static_cast<float>(below(a.high) - below(a.low))};
}

namespace cpu {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements a task

}  // namespace

void init_normal(Stream& stream, const InitNormal& a) {
  const Probabilities p = probabilities(a);
  float* out = a.out.as<float>();
  const int64_t n = a.out.count();
  stream.parallel_for((n + kChunk - 1) / kChunk, [&](int64_t task, Scratch) {
    for (int64_t i = task * kChunk; i < std::min(n, (task + 1) * kChunk);) {
      // Four elements share a Philox block.
      const auto index = static_cast<uint64_t>(a.first + i);
      const Philox4 block = philox(a.seed, index >> 2, a.stream);
      const int64_t end =
          std::min({n, (task + 1) * kChunk, i + 4 - static_cast<int64_t>(index & 3)});
      for (; i < end; ++i)
        out[i] = initial_value(a, p, block.v[static_cast<uint64_t>(a.first + i) & 3]);
    }
  });
}

}  // namespace cpu
}  // namespace nereus::ops
