#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

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
namespace {

using simd::f32x8;
using simd::kWidth;
using simd::splat;

constexpr int64_t kVectors = 4;               // at once, to hide their latency
constexpr int64_t kStep = kVectors * kWidth;  // elements
constexpr int64_t kChunk = 64 * kStep;        // of a row: stays in the first cache

// f(get, put) over [0, n), as simd::for_each, but kVectors at a time: get(u) and put(u, v) for
// vector u of those.
template <class E, class Body>
void each_step(E* x, int64_t n, float fill, Body&& body) {
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    body([x, i](int64_t u) { return simd::load(x + i + u * kWidth); },
         [x, i](int64_t u, f32x8 v) { simd::store(x + i + u * kWidth, v); });
  }
  if (i == n) return;
  const auto left = [i, n](int64_t u) {
    return std::clamp<int64_t>(n - i - u * kWidth, 0, kWidth);
  };
  body([&](int64_t u) { return simd::load_partial(x + i + u * kWidth, left(u), fill); },
       [&](int64_t u, f32x8 v) { simd::store_partial(x + i + u * kWidth, v, left(u)); });
}

float largest(const f32x8 (&v)[kVectors]) {
  return simd::max(simd::max(simd::max(v[0], v[1]), simd::max(v[2], v[3])));
}
float total(const f32x8 (&v)[kVectors]) { return simd::sum((v[0] + v[1]) + (v[2] + v[3])); }

// A row's exp(x - top) by chunks: each with the largest logit up to there as `top`.
struct Softmax {
  float top = -INFINITY, sum = 0;
};

// Takes a chunk in. With `keep`, x becomes exp(x - the new top).
template <class E>
void add_chunk(Softmax& state, E* x, int64_t n, bool keep) {
  f32x8 most[kVectors], sums[kVectors];
  for (int64_t u = 0; u < kVectors; ++u) {
    most[u] = splat(-INFINITY);
    sums[u] = splat(0);
  }
  each_step(x, n, -INFINITY, [&](auto get, auto) {
    for (int64_t u = 0; u < kVectors; ++u) most[u] = simd::max(most[u], get(u));
  });
  const float top = std::max(state.top, largest(most));
  const f32x8 shift = splat(top == -INFINITY ? 0 : top);  // nothing else yet: their exp is 0
  const auto add = [&](auto get, auto put) {
    for (int64_t u = 0; u < kVectors; ++u) {
      const f32x8 e = simd::exp_nonpositive(get(u) - shift);
      sums[u] += e;
      put(u, e);
    }
  };
  if (keep) {
    each_step(x, n, -INFINITY, add);
  } else {
    each_step(x, n, -INFINITY, [&](auto get, auto) { add(get, [](int64_t, f32x8) {}); });
  }
  const float shrink = state.top == top ? 1 : std::exp(state.top - top);
  state = {top, state.sum * shrink + total(sums)};
}

}  // namespace

// A row is a task: V is large, and a row is read once and written once while it is in the cache.
// f32 keeps exp(x - top) of the first pass in the row; bf16 would lose its precision there and
// computes it again.
void cross_entropy(Stream& stream, const CrossEntropy& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  const int32_t* labels = a.labels.as<int32_t>();
  for (int64_t t = 0; t < T; ++t) {
    NEREUS_CHECK(kContract, labels[t] < V, "cross_entropy: labels[{}] is {}, logits {} end before",
                 t, labels[t], a.logits);
  }
  visit_float(a.logits.dtype, [&]<class E>() {
    const bool keep = std::is_same_v<E, float> && !a.loss_only;
    stream.parallel_for(T, [&](int64_t t, Scratch scratch) {
      E* x = a.logits.as<E>() + t * a.logits.row_stride();
      const int32_t label = labels[t];
      float& nll = a.nll.as<float>()[t];
      if (label < 0) {
        nll = 0;
        if (!a.loss_only) std::fill_n(x, V, E(0.0f));
        return;
      }
      const float at_label = static_cast<float>(x[label]);
      float* tops = reinterpret_cast<float*>(scratch.data());
      Softmax row;
      for (int64_t begin = 0; begin < V; begin += kChunk) {
        add_chunk(row, x + begin, std::min(kChunk, V - begin), keep);
        tops[begin / kChunk] = row.top;
      }
      nll = std::log(row.sum) + (row.top - at_label);
      if (a.loss_only) return;
      const f32x8 shift = splat(row.top);
      for (int64_t begin = 0; begin < V; begin += kChunk) {
        const float factor = a.scale / row.sum;
        const f32x8 kept = splat(std::exp(tops[begin / kChunk] - row.top) * factor);
        each_step(x + begin, std::min(kChunk, V - begin), 0, [&](auto get, auto put) {
          for (int64_t u = 0; u < kVectors; ++u)
            put(u, keep ? get(u) * kept : simd::exp_nonpositive(get(u) - shift) * splat(factor));
        });
      }
      const float p = std::exp(at_label - row.top) / row.sum;
      x[label] = E(a.scale * (p - 1.0f));
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
