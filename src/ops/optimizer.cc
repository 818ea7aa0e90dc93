#include "ops/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const SumSquares& a) {
  expect("sum_squares", "out", a.out, DType::f64, {1});
  expect("sum_squares", "x", a.x, DType::f32, a.x.shape);
  expect_contiguous("sum_squares", "x", a.x);
}

void check(const ClipCoefficient& a) {
  const char* op = "clip_coefficient";
  expect(op, "norm", a.norm, DType::f32, {1});
  expect(op, "coefficient", a.coefficient, DType::f32, {1});
  expect(op, "step_ok", a.step_ok, DType::i32, {1});
  expect(op, "sum_squares", a.sum_squares, DType::f64, {1});
}

void check(const Adam& a) {
  const char* op = "adam";
  const Shape n{a.grad.count()};
  if (given(a.remainder)) {
    NEREUS_CHECK(kContract, !given(a.param) && given(a.copy),
                 "adam: with a remainder the parameter is {} and the copy {}; it needs the copy "
                 "alone",
                 a.param, a.copy);
    expect(op, "remainder", a.remainder, DType::i16, n);
  } else {
    expect(op, "param", a.param, DType::f32, n);
  }
  expect_float(op, "m", a.m);
  expect(op, "m", a.m, a.m.dtype, n);
  expect(op, "v", a.v, a.m.dtype, n);
  expect(op, "grad", a.grad, DType::f32, n);
  expect(op, "coefficient", a.coefficient, DType::f32, {1});
  expect(op, "step_ok", a.step_ok, DType::i32, {1});
  if (given(a.copy)) expect(op, "copy", a.copy, DType::bf16, n);
  NEREUS_CHECK(kContract, a.step >= 1, "adam: step {}, counted from 1", a.step);
}

namespace cpu {
namespace {

constexpr int64_t kParts = 64;       // of a sum, whatever its length
constexpr int64_t kChunk = 1 << 15;  // elements a task of adam

// The parts of a master (ops/split_math.h), eight at a time.
simd::f32x8 magnitude(simd::f32x8 v) { return simd::from_bits(simd::bits(v) & 0x7fffffff); }
simd::f32x8 with_signs(simd::f32x8 v, simd::i32x8 minus) {
  return simd::from_bits(simd::bits(v) | (minus & std::numeric_limits<int32_t>::min()));
}
simd::f32x8 join(simd::f32x8 copy, simd::i32x8 remainder, simd::f32x8 v) {
  const simd::i32x8 tie_down = simd::bits(v) < 0;  // -1 where it is
  return simd::from_bits(simd::bits(copy) + remainder + (tie_down & 0x10000));
}
simd::i32x8 remainder_of(simd::f32x8 p) {
  const simd::u32x8 copy = simd::round_to_bf16(p) << 16;
  simd::i32x8 copy_bits;
  memcpy(&copy_bits, &copy, sizeof copy_bits);
  const simd::i32x8 is_number = p == p;
  return (simd::bits(p) - copy_bits) & is_number;
}

using f64x8 = double __attribute__((vector_size(64)));

double squares(const float* x, int64_t n) {
  f64x8 lanes = {};
  simd::for_each(n, [&](auto get, auto) {
    const f64x8 v = __builtin_convertvector(get(x, 0), f64x8);
    lanes += v * v;
  });
  double sum = 0;
  for (int i = 0; i < 8; ++i) sum += lanes[i];
  return sum;
}

}  // namespace

void sum_squares(Stream& stream, const SumSquares& a) {
  const int64_t n = a.x.count(), part = (n + kParts - 1) / kParts;
  const float* x = a.x.as<float>();
  std::array<double, kParts> sums{};
  stream.parallel_for(kParts, [&](int64_t i, Scratch) {
    const int64_t begin = std::min(n, i * part), end = std::min(n, begin + part);
    sums[static_cast<size_t>(i)] = squares(x + begin, end - begin);
  });
  double total = 0;
  for (const double s : sums) total += s;
  double* out = a.out.as<double>();
  out[0] = a.accumulate ? out[0] + total : total;
}

void clip_coefficient(Stream&, const ClipCoefficient& a) {
  const auto norm = static_cast<float>(std::sqrt(a.sum_squares.as<double>()[0]));
  a.norm.as<float>()[0] = norm;
  a.coefficient.as<float>()[0] = std::min(1.0f, a.max_norm / (norm + 1e-6f));
  if (!std::isfinite(norm)) a.step_ok.as<int32_t>()[0] = 0;
}

void adam(Stream& stream, const Adam& a) {
  if (a.step_ok.as<int32_t>()[0] == 0) return;
  using simd::splat;
  const int64_t n = a.grad.count();
  const bool split = given(a.remainder);
  const auto step = static_cast<double>(a.step);
  const double correction1 = 1 - std::pow(a.beta1, step);
  const double correction2_sqrt = std::sqrt(1 - std::pow(a.beta2, step));
  const simd::f32x8 coefficient = splat(a.coefficient.as<float>()[0]);
  const simd::f32x8 weight_m = splat(static_cast<float>(1 - a.beta1));
  const simd::f32x8 beta2 = splat(static_cast<float>(a.beta2));
  const simd::f32x8 weight_v = splat(static_cast<float>(1 - a.beta2));
  const simd::f32x8 rate = splat(static_cast<float>(a.lr / correction1));
  const simd::f32x8 root_scale = splat(static_cast<float>(correction2_sqrt));
  const simd::f32x8 eps = splat(static_cast<float>(a.eps));
  const simd::f32x8 shrink = splat(static_cast<float>(1 - a.lr * a.weight_decay));
  const simd::f32x8 decay = splat(static_cast<float>(a.weight_decay));
  visit_float(a.m.dtype, [&]<class M>() {
    stream.parallel_for((n + kChunk - 1) / kChunk, [&](int64_t task, Scratch) {
      const int64_t begin = task * kChunk, count = std::min(n - begin, kChunk);
      float* param = split ? nullptr : a.param.as<float>() + begin;
      int16_t* remainder = split ? a.remainder.as<int16_t>() + begin : nullptr;
      M *m = a.m.as<M>() + begin, *v = a.v.as<M>() + begin;
      const float* grad = a.grad.as<float>() + begin;
      bf16* copy = given(a.copy) ? a.copy.as<bf16>() + begin : nullptr;
      simd::for_each(count, [&](auto get, auto put) {
        const simd::f32x8 v0 = get(v, 0);
        simd::f32x8 p = split ? join(get(copy, 0), get(remainder, 0), v0) : get(param, 0);
        simd::f32x8 g = coefficient * get(grad, 0);
        if (a.decoupled) {
          p *= shrink;
        } else {
          g += decay * p;
        }
        const simd::f32x8 m0 = get(m, 0);
        const simd::f32x8 m1 = m0 + weight_m * (g - m0);
        const simd::f32x8 v1 = beta2 * magnitude(v0) + weight_v * g * g;
        simd::f32x8 root;
        for (int i = 0; i < 8; ++i) root[i] = std::sqrt(v1[i]);
        p -= rate * m1 / (root / root_scale + eps);
        put(m, m1);
        if (split) {
          const simd::i32x8 d = remainder_of(p);
          put(remainder, d);
          put(v, with_signs(v1, d == 0x8000));
        } else {
          put(param, p);
          put(v, v1);
        }
        if (copy != nullptr) put(copy, p);
      });
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
