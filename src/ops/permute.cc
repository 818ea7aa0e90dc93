#include "ops/permute.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const PermutePlan& a) {
  const char* op = "permute_plan";
  expect_rank(op, "ids", a.ids, 2);
  const int64_t T = a.ids.dim(0), K = a.ids.dim(1);
  expect(op, "ids", a.ids, DType::i32, {T, K});
  expect(op, "row_of_slot", a.row_of_slot, DType::i32, {T, K});
  expect(op, "slot_of_row", a.slot_of_row, DType::i32, {T * K});
  expect_rank(op, "offsets", a.offsets, 1);
  expect(op, "offsets", a.offsets, DType::i32, a.offsets.shape);
  expect_contiguous(op, "ids", a.ids);
  expect_contiguous(op, "row_of_slot", a.row_of_slot);
}

void check(const Permute& a) {
  const char* op = "permute";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  expect_rank(op, "row_of_slot", a.row_of_slot, 2);
  expect_rank(op, "rows", a.rows, 2);
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.row_of_slot.dim(1);
  expect(op, "rows", a.rows, a.x.dtype, {a.rows.dim(0), D});
  expect(op, "row_of_slot", a.row_of_slot, DType::i32, {T, K});
  if (given(a.weights)) expect(op, "weights", a.weights, DType::f32, {T, K});
}

void check(const Combine& a) {
  const char* op = "combine";
  expect_float(op, "rows", a.rows);
  expect_rank(op, "rows", a.rows, 2);
  expect_rank(op, "row_of_slot", a.row_of_slot, 2);
  const int64_t T = a.row_of_slot.dim(0), K = a.row_of_slot.dim(1), D = a.rows.dim(1);
  expect(op, "out", a.out, a.rows.dtype, {T, D});
  expect(op, "row_of_slot", a.row_of_slot, DType::i32, {T, K});
  if (given(a.weights)) expect(op, "weights", a.weights, DType::f32, {T, K});
  if (given(a.addend)) expect(op, "addend", a.addend, a.rows.dtype, {T, D});
}

void check(const RowDot& a) {
  const char* op = "row_dot";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  expect_rank(op, "rows", a.rows, 2);
  expect_rank(op, "row_of_slot", a.row_of_slot, 2);
  const int64_t T = a.x.dim(0), K = a.row_of_slot.dim(1);
  expect(op, "rows", a.rows, a.x.dtype, {a.rows.dim(0), a.x.dim(1)});
  expect(op, "row_of_slot", a.row_of_slot, DType::i32, {T, K});
  expect(op, "out", a.out, DType::f32, {T, K});
}

void check(const GatherScalars& a) {
  const char* op = "gather_scalars";
  expect(op, "out", a.out, DType::f32, a.out.shape);
  expect(op, "x", a.x, DType::f32, a.x.shape);
  expect(op, "index", a.index, DType::i32, a.index.shape);
  NEREUS_CHECK(kContract, a.out.count() == a.index.count() && a.x.count() == a.index.count(),
               "gather_scalars: out {}, x {} and index {} differ in size", a.out, a.x, a.index);
  expect_contiguous(op, "out", a.out);
  expect_contiguous(op, "x", a.x);
  expect_contiguous(op, "index", a.index);
}

namespace cpu {
namespace {

constexpr int64_t kRows = 16;  // a task

}  // namespace

// A stable counting sort; small, so that one thread does it.
void permute_plan(Stream&, const PermutePlan& a) {
  const int64_t slots = a.ids.count(), E = a.offsets.dim(0) - 1;
  const int32_t* ids = a.ids.as<int32_t>();
  int32_t *offsets = a.offsets.as<int32_t>(), *row = a.row_of_slot.as<int32_t>(),
          *slot = a.slot_of_row.as<int32_t>();
  std::fill_n(offsets, E + 1, 0);
  for (int64_t s = 0; s < slots; ++s) ++offsets[ids[s] + 1];
  for (int64_t e = 0; e < E; ++e) offsets[e + 1] += offsets[e];
  // offsets[e] serves as the next free row of e, and ends as what offsets[e + 1] was.
  for (int64_t s = 0; s < slots; ++s) {
    const int32_t r = offsets[ids[s]]++;
    row[s] = r;
    slot[r] = static_cast<int32_t>(s);
  }
  for (int64_t e = E; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

void permute(Stream& stream, const Permute& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.row_of_slot.dim(1);
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const int32_t* row = a.row_of_slot.as<int32_t>() + t * a.row_of_slot.row_stride();
        const E* x = a.x.as<E>() + t * a.x.row_stride();
        for (int64_t k = 0; k < K; ++k) {
          E* out = a.rows.as<E>() + row[k] * a.rows.row_stride();
          if (!given(a.weights)) {
            std::copy_n(x, D, out);
            continue;
          }
          const simd::f32x8 w = simd::splat(a.weights.as<float>()[t * a.weights.row_stride() + k]);
          simd::for_each(D, [&](auto get, auto put) { put(out, get(x, 0) * w); });
        }
      }
    });
  });
}

void combine(Stream& stream, const Combine& a) {
  const int64_t T = a.out.dim(0), D = a.out.dim(1), K = a.row_of_slot.dim(1);
  visit_float(a.rows.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const int32_t* row = a.row_of_slot.as<int32_t>() + t * a.row_of_slot.row_stride();
        const float* w =
            given(a.weights) ? a.weights.as<float>() + t * a.weights.row_stride() : nullptr;
        const E* addend = given(a.addend) ? a.addend.as<E>() + t * a.addend.row_stride() : nullptr;
        E* out = a.out.as<E>() + t * a.out.row_stride();
        simd::for_each(D, [&](auto get, auto put) {
          simd::f32x8 sum = simd::splat(0);
          for (int64_t k = 0; k < K; ++k) {
            const simd::f32x8 x = get(a.rows.as<E>() + row[k] * a.rows.row_stride(), 0);
            sum += w == nullptr ? x : x * simd::splat(w[k]);
          }
          put(out, addend == nullptr ? sum : sum + get(addend, 0));
        });
      }
    });
  });
}

void row_dot(Stream& stream, const RowDot& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.row_of_slot.dim(1);
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* x = a.x.as<E>() + t * a.x.row_stride();
        for (int64_t k = 0; k < K; ++k) {
          const int32_t r = a.row_of_slot.as<int32_t>()[t * a.row_of_slot.row_stride() + k];
          const E* row = a.rows.as<E>() + r * a.rows.row_stride();
          simd::f32x8 dot = simd::splat(0);
          simd::for_each(D, [&](auto get, auto) { dot += get(x, 0) * get(row, 0); });
          a.out.as<float>()[t * a.out.row_stride() + k] = simd::sum(dot);
        }
      }
    });
  });
}

void gather_scalars(Stream&, const GatherScalars& a) {
  const int32_t* index = a.index.as<int32_t>();
  const float* x = a.x.as<float>();
  float* out = a.out.as<float>();
  for (int64_t i = 0; i < a.index.count(); ++i) out[i] = x[index[i]];
}

}  // namespace cpu
}  // namespace nereus::ops
