#include "ops/rmsnorm.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const RmsNormForward& a) {
  const char* op = "rmsnorm_forward";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  expect(op, "y", a.y, a.x.dtype, a.x.shape);
  expect(op, "rstd", a.rstd, DType::f32, {T});
  expect(op, "weight", a.weight, DType::f32, {D});
  NEREUS_CHECK(kContract, given(a.addend) == given(a.sum),
               "rmsnorm_forward: addend and sum are given together or not at all");
  if (given(a.addend)) {
    expect(op, "addend", a.addend, a.x.dtype, a.x.shape);
    expect(op, "sum", a.sum, a.x.dtype, a.x.shape);
  }
}

void check(const RmsNormBackward& a) {
  const char* op = "rmsnorm_backward";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  expect(op, "dx", a.dx, a.x.dtype, a.x.shape);
  expect(op, "dweight", a.dweight, DType::f32, {D});
  expect(op, "dy", a.dy, a.x.dtype, a.x.shape);
  expect(op, "weight", a.weight, DType::f32, {D});
  expect(op, "rstd", a.rstd, DType::f32, {T});
  if (given(a.residual)) expect(op, "residual", a.residual, a.x.dtype, a.x.shape);
}

namespace {

void check_pair(const char* op, const ConstTensorView& first, const ConstTensorView& second) {
  NEREUS_CHECK(kContract, first.dtype == second.dtype && first.dim(0) == second.dim(0),
               "{}: the first x is {}, the second {}, expected one type and as many rows", op,
               first, second);
}

}  // namespace

void check(const RmsNormPairForward& a) {
  check(a.first);
  check(a.second);
  check_pair("rmsnorm_pair_forward", a.first.x, a.second.x);
}

void check(const RmsNormPairBackward& a) {
  check(a.first);
  check(a.second);
  check_pair("rmsnorm_pair_backward", a.first.x, a.second.x);
}

namespace cpu {
namespace {

constexpr int64_t kRows = 16;     // rows a task
constexpr int64_t kColumns = 64;  // columns a task of dweight

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  const float* weight = a.weight.as<float>();
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* x = a.x.as<E>() + t * a.x.row_stride();
        if (given(a.addend)) {
          const E* addend = a.addend.as<E>() + t * a.addend.row_stride();
          E* s = a.sum.as<E>() + t * a.sum.row_stride();
          simd::for_each(D, [&](auto get, auto put) { put(s, get(x, 0) + get(addend, 0)); });
          x = s;
        }
        simd::f32x8 squares = simd::splat(0);
        simd::for_each(D, [&](auto get, auto) {
          const simd::f32x8 v = get(x, 0);
          squares += v * v;
        });
        const float rstd = 1.0f / std::sqrt(simd::sum(squares) / static_cast<float>(D) + a.eps);
        E* y = a.y.as<E>() + t * a.y.row_stride();
        if (a.round_normalized) {
          for (int64_t d = 0; d < D; ++d)
            y[d] = E(static_cast<float>(E(static_cast<float>(x[d]) * rstd)) * weight[d]);
        } else {
          simd::for_each(D, [&](auto get, auto put) {
            put(y, get(x, 0) * simd::splat(rstd) * get(weight, 0));
          });
        }
        a.rstd.as<float>()[t] = rstd;
      }
    });
  });
}

void rmsnorm_backward(Stream& stream, const RmsNormBackward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  const float *weight = a.weight.as<float>(), *rstd = a.rstd.as<float>();
  float* dweight = a.dweight.as<float>();
  visit_float(a.x.dtype, [&]<class E>() {
    const auto row = [](const auto& view, int64_t t) {
      return view.template as<E>() + t * view.row_stride();
    };
    // dweight first: dx may alias dy. A task has some columns of all rows, summed in order of t.
    stream.parallel_for((D + kColumns - 1) / kColumns, [&](int64_t task, Scratch) {
      const int64_t begin = task * kColumns, n = std::min(D - begin, kColumns);
      float sum[kColumns] = {};
      for (int64_t t = 0; t < T; ++t) {
        const E *dy = row(a.dy, t) + begin, *x = row(a.x, t) + begin;
        const simd::f32x8 r = simd::splat(rstd[t]);
        simd::for_each(n, [&](auto get, auto put) {
          put(&sum[0], get(&sum[0], 0) + get(dy, 0) * (get(x, 0) * r));
        });
      }
      for (int64_t i = 0; i < n; ++i)
        dweight[begin + i] = a.accumulate ? dweight[begin + i] + sum[i] : sum[i];
    });
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E *dy = row(a.dy, t), *x = row(a.x, t);
        const simd::f32x8 r = simd::splat(rstd[t]);
        simd::f32x8 dots = simd::splat(0);
        simd::for_each(
            D, [&](auto get, auto) { dots += get(dy, 0) * get(weight, 0) * (get(x, 0) * r); });
        const simd::f32x8 mean = simd::splat(simd::sum(dots) / static_cast<float>(D));
        E* dx = row(a.dx, t);
        const E* residual = given(a.residual) ? row(a.residual, t) : nullptr;
        simd::for_each(D, [&](auto get, auto put) {
          const simd::f32x8 g = r * (get(dy, 0) * get(weight, 0) - get(x, 0) * r * mean);
          put(dx, residual == nullptr ? g : g + get(residual, 0));
        });
      }
    });
  });
}

void rmsnorm_pair_forward(Stream& stream, const RmsNormPairForward& a) {
  cpu::rmsnorm_forward(stream, a.first);
  cpu::rmsnorm_forward(stream, a.second);
}

void rmsnorm_pair_backward(Stream& stream, const RmsNormPairBackward& a) {
  cpu::rmsnorm_backward(stream, a.first);
  cpu::rmsnorm_backward(stream, a.second);
}

}  // namespace cpu
}  // namespace nereus::ops
