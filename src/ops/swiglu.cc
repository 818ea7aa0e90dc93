#include "ops/swiglu.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {
namespace {

template <class A>
void check_shapes(const char* op, const A& a, const ConstTensorView& y) {
  expect_float(op, "y", y);
  expect_rank(op, "y", y, 2);
  const int64_t T = y.dim(0), F = y.dim(1);
  expect(op, "gate_up", a.gate_up, y.dtype, {T, 2 * F});
  if (given(a.row_weight)) expect(op, "row_weight", a.row_weight, DType::f32, {T});
  if (given(a.rows)) expect(op, "rows", a.rows, DType::i32, {1});
}

}  // namespace

void check(const SwigluForward& a) { check_shapes("swiglu_forward", a, a.y); }

void check(const SwigluBackward& a) {
  const char* op = "swiglu_backward";
  check_shapes(op, a, a.dy);
  expect(op, "dgate_up", a.dgate_up, a.gate_up.dtype, a.gate_up.shape);
  NEREUS_CHECK(kContract, given(a.row_weight) == given(a.drow_weight),
               "swiglu_backward: row_weight and drow_weight are given together or not at all");
  if (given(a.drow_weight)) expect(op, "drow_weight", a.drow_weight, DType::f32, {a.dy.dim(0)});
}

namespace cpu {
namespace {

constexpr int64_t kRows = 8;  // a task

using simd::f32x8;

f32x8 sigmoid(f32x8 z) { return simd::splat(1) / (simd::splat(1) + simd::exp(-z)); }

template <class A>
int64_t used_rows(const A& a, int64_t rows) {
  return given(a.rows) ? a.rows.template as<int32_t>()[0] : rows;
}

}  // namespace

void swiglu_forward(Stream& stream, const SwigluForward& a) {
  const int64_t F = a.y.dim(1), T = used_rows(a, a.y.dim(0));
  visit_float(a.y.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* gate = a.gate_up.as<E>() + t * a.gate_up.row_stride();
        const E* up = gate + F;
        E* y = a.y.as<E>() + t * a.y.row_stride();
        const f32x8 w = simd::splat(given(a.row_weight) ? a.row_weight.as<float>()[t] : 1.0f);
        simd::for_each(F, [&](auto get, auto put) {
          const f32x8 g = get(gate, 0);
          put(y, w * (g * sigmoid(g) * get(up, 0)));
        });
      }
    });
  });
}

// silu'(z) = s + z s (1 - s) with s = sigmoid(z).
void swiglu_backward(Stream& stream, const SwigluBackward& a) {
  const int64_t F = a.dy.dim(1), T = used_rows(a, a.dy.dim(0));
  visit_float(a.dy.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* gate = a.gate_up.as<E>() + t * a.gate_up.row_stride();
        const E* up = gate + F;
        const E* dy = a.dy.as<E>() + t * a.dy.row_stride();
        E* dgate = a.dgate_up.as<E>() + t * a.dgate_up.row_stride();
        E* dup = dgate + F;
        const f32x8 w = simd::splat(given(a.row_weight) ? a.row_weight.as<float>()[t] : 1.0f);
        f32x8 dot = simd::splat(0);
        simd::for_each(F, [&](auto get, auto put) {
          const f32x8 g = get(gate, 0), u = get(up, 0), d = get(dy, 0), s = sigmoid(g);
          const f32x8 silu = g * s;
          dot += d * (silu * u);
          put(dup, w * d * silu);
          put(dgate, w * d * u * (s + silu * (simd::splat(1) - s)));
        });
        if (given(a.drow_weight)) a.drow_weight.as<float>()[t] = simd::sum(dot);
      }
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
