#include "ops/embedding.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const EmbeddingForward& a) {
  const char* op = "embedding_forward";
  expect_float(op, "table", a.table);
  expect_rank(op, "table", a.table, 2);
  expect_rank(op, "ids", a.ids, 1);
  expect(op, "ids", a.ids, DType::i32, a.ids.shape);
  expect(op, "out", a.out, a.table.dtype, {a.ids.dim(0), a.table.dim(1)});
}

void check(const EmbeddingBackward& a) {
  const char* op = "embedding_backward";
  expect_float(op, "dy", a.dy);
  expect_rank(op, "dtable", a.dtable, 2);
  expect_rank(op, "ids", a.ids, 1);
  expect(op, "ids", a.ids, DType::i32, a.ids.shape);
  expect(op, "dtable", a.dtable, DType::f32, a.dtable.shape);
  expect(op, "dy", a.dy, a.dy.dtype, {a.ids.dim(0), a.dtable.dim(1)});
  expect_contiguous(op, "dtable", a.dtable);
}

namespace cpu {
namespace {

constexpr int64_t kTokens = 32;  // a task of the forward pass
constexpr int64_t kIds = 8192;   // of the vocabulary, a task of the backward pass

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& a) {
  const int64_t T = a.ids.dim(0), V = a.table.dim(0), D = a.table.dim(1);
  const int32_t* ids = a.ids.as<int32_t>();
  visit_float(a.table.dtype, [&]<class E>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch) {
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        const int64_t v = ids[t] - a.first;
        E* out = a.out.as<E>() + t * a.out.row_stride();
        if (v >= 0 && v < V) {
          std::copy_n(a.table.as<E>() + v * a.table.row_stride(), D, out);
        } else {
          std::fill_n(out, D, E(0.0f));
        }
      }
    });
  });
}

// A task owns a range of ids and goes over all tokens for those in it.
void embedding_backward(Stream& stream, const EmbeddingBackward& a) {
  const int64_t T = a.ids.dim(0), V = a.dtable.dim(0), D = a.dtable.dim(1);
  const int32_t* ids = a.ids.as<int32_t>();
  float* dtable = a.dtable.as<float>();
  visit_float(a.dy.dtype, [&]<class E>() {
    stream.parallel_for((V + kIds - 1) / kIds, [&](int64_t task, Scratch) {
      const int64_t begin = task * kIds, end = std::min(V, begin + kIds);
      if (!a.accumulate) std::fill(dtable + begin * D, dtable + end * D, 0.0f);
      for (int64_t t = 0; t < T; ++t) {
        const int64_t v = ids[t] - a.first;
        if (v < begin || v >= end) continue;
        float* out = dtable + v * D;
        const E* dy = a.dy.as<E>() + t * a.dy.row_stride();
        simd::for_each(D, [&](auto get, auto put) { put(out, get(out, 0) + get(dy, 0)); });
      }
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
