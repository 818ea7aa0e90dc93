#include "ops/cross_entropy_parts.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"

namespace nereus::ops {

void check(const CrossEntropyStats& a) {
  const char* op = "cross_entropy_stats";
  expect_float(op, "logits", a.logits);
  expect_rank(op, "logits", a.logits, 2);
  const int64_t T = a.logits.dim(0);
  expect(op, "stats", a.stats, DType::f32, {3, T});
  expect_contiguous(op, "stats", a.stats);
  expect(op, "labels", a.labels, DType::i32, {T});
}

void check(const CrossEntropyJoin& a) {
  const char* op = "cross_entropy_join";
  expect_float(op, "logits", a.logits);
  expect_rank(op, "logits", a.logits, 2);
  const int64_t T = a.logits.dim(0);
  expect_rank(op, "stats", a.stats, 2);
  expect(op, "stats", a.stats, DType::f32, {a.stats.dim(0), 3 * T});
  expect_contiguous(op, "stats", a.stats);
  expect(op, "nll", a.nll, DType::f32, {T});
  expect(op, "labels", a.labels, DType::i32, {T});
}

namespace cpu {
namespace {

// exp(x - top), of a part without a finite logit 0.
float exp_below(float x, float top) { return top == -INFINITY ? 0.0f : std::exp(x - top); }

}  // namespace

void cross_entropy_stats(Stream& stream, const CrossEntropyStats& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  const int32_t* labels = a.labels.as<int32_t>();
  float* stats = a.stats.as<float>();
  visit_float(a.logits.dtype, [&]<class E>() {
    stream.parallel_for(T, [&](int64_t t, Scratch) {
      const E* x = a.logits.as<E>() + t * a.logits.row_stride();
      float top = -INFINITY;
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) top = std::max(top, static_cast<float>(x[v]));
      for (int64_t v = 0; v < V; ++v)
        sum += static_cast<double>(exp_below(static_cast<float>(x[v]), top));
      const int64_t label = labels[t] - a.first;
      stats[t] = top;
      stats[T + t] = static_cast<float>(sum);
      stats[2 * T + t] =
          labels[t] >= 0 && label >= 0 && label < V ? static_cast<float>(x[label]) : 0.0f;
    });
  });
}

void cross_entropy_join(Stream& stream, const CrossEntropyJoin& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1), P = a.stats.dim(0);
  const int32_t* labels = a.labels.as<int32_t>();
  const float* stats = a.stats.as<float>();
  visit_float(a.logits.dtype, [&]<class E>() {
    stream.parallel_for(T, [&](int64_t t, Scratch) {
      E* x = a.logits.as<E>() + t * a.logits.row_stride();
      float& nll = a.nll.as<float>()[t];
      if (labels[t] < 0) {
        nll = 0;
        if (!a.loss_only) std::fill_n(x, V, E(0.0f));
        return;
      }
      float top = -INFINITY, sum = 0, at_label = 0;
      for (int64_t p = 0; p < P; ++p) top = std::max(top, stats[p * 3 * T + t]);
      for (int64_t p = 0; p < P; ++p) {
        const float* part = stats + p * 3 * T;
        sum += part[T + t] * exp_below(part[t], top);
        at_label += part[2 * T + t];
      }
      nll = std::log(sum) + (top - at_label);
      if (a.loss_only) return;
      const float factor = a.scale / sum;
      for (int64_t v = 0; v < V; ++v) {
        const float p = exp_below(static_cast<float>(x[v]), top) * factor;
        x[v] = E(v + a.first == labels[t] ? p - a.scale : p);
      }
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
