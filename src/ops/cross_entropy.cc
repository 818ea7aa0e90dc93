#include "ops/cross_entropy.h"

#include <cmath>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const CrossEntropy& a) {
  const char* op = "cross_entropy";
  expect_float(op, "logits", a.logits);
  expect_rank(op, "logits", a.logits, 2);
  const int64_t T = a.logits.dim(0);
  expect(op, "logits", a.logits, a.logits.dtype, a.logits.shape);
  expect(op, "nll", a.nll, DType::f32, {T});
  expect(op, "labels", a.labels, DType::i32, {T});
}

namespace cpu {

// A row is a task: V is large. exp(x - max) is summed, and for f32 kept in place, so that it is
// computed once; bf16 would lose its precision there and computes it again.
void cross_entropy(Stream& stream, const CrossEntropy& a) {
  using simd::f32x8, simd::splat;
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  visit_float(a.logits.dtype, [&]<class E>() {
    constexpr bool kKeep = std::is_same_v<E, float>;
    stream.parallel_for(T, [&](int64_t t, Scratch) {
      E* x = a.logits.as<E>() + t * a.logits.row_stride();
      const int32_t label = a.labels.as<int32_t>()[t];
      float& nll = a.nll.as<float>()[t];
      if (label < 0) {
        nll = 0;
        if (!a.loss_only) simd::for_each(V, [&](auto, auto put) { put(x, splat(0)); });
        return;
      }
      f32x8 most = splat(-INFINITY);
      simd::for_each(V, [&](auto get, auto) { most = simd::max(most, get(x, -INFINITY)); });
      const float top = simd::max(most), at_label = static_cast<float>(x[label]);
      const f32x8 shift = splat(top);
      f32x8 sums = splat(0);
      simd::for_each(V, [&](auto get, auto put) {
        const f32x8 e = simd::exp(get(x, -INFINITY) - shift);
        sums += e;
        if (kKeep && !a.loss_only) put(x, e);
      });
      const float sum = simd::sum(sums);
      nll = std::log(sum) + (top - at_label);
      if (a.loss_only) return;
      const f32x8 factor = splat(a.scale / sum);
      simd::for_each(V, [&](auto get, auto put) {
        put(x, (kKeep ? get(x, 0) : simd::exp(get(x, 0) - shift)) * factor);
      });
      const float p = std::exp(at_label - top) / sum;
      x[label] = E(a.scale * (p - 1.0f));
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
