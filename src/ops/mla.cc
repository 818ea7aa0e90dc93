#include "ops/mla.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {
namespace {

template <class View>
void check_tables(const char* op, const View& a, int64_t T, int64_t R) {
  NEREUS_CHECK(kContract, R % 2 == 0 && R <= 2048 && a.cos.rank() == 2 && a.cos.dim(1) == R / 2,
               "{}: cos is {}, expected f32 [positions, {}], half the rotary width", op, a.cos,
               R / 2);
  expect(op, "cos", a.cos, DType::f32, a.cos.shape);
  expect(op, "sin", a.sin, DType::f32, a.cos.shape);
  expect(op, "positions", a.positions, DType::i32, {T});
}

}  // namespace

void check(const MlaAssemble& a) {
  const char* op = "mla_assemble";
  expect_float(op, "k", a.k);
  expect_rank(op, "k", a.k, 3);
  expect_rank(op, "k_pe", a.k_pe, 2);
  const int64_t T = a.k.dim(0), H = a.k.dim(1), R = a.k_pe.dim(1), N = a.k.dim(2) - R;
  if (given(a.q)) expect(op, "q", a.q, a.k.dtype, a.k.shape);
  expect(op, "k_nope", a.k_nope, a.k.dtype, {T, H, N});
  expect(op, "k_pe", a.k_pe, a.k.dtype, {T, R});
  check_tables(op, a, T, R);
}

void check(const MlaAssembleBackward& a) {
  const char* op = "mla_assemble_backward";
  expect_float(op, "dk", a.dk);
  expect_rank(op, "dk", a.dk, 3);
  expect_rank(op, "dk_pe", a.dk_pe, 2);
  const int64_t T = a.dk.dim(0), H = a.dk.dim(1), R = a.dk_pe.dim(1), N = a.dk.dim(2) - R;
  if (given(a.dq)) expect(op, "dq", a.dq, a.dk.dtype, a.dk.shape);
  expect(op, "dk_nope", a.dk_nope, a.dk.dtype, {T, H, N});
  expect(op, "dk_pe", a.dk_pe, a.dk.dtype, {T, R});
  check_tables(op, a, T, R);
}

void check(const RotateHeads& a) {
  const char* op = "rotate_heads";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 3);
  expect(op, "x", a.x, a.x.dtype, a.x.shape);
  check_tables(op, a, a.x.dim(0), a.x.dim(2));
}

namespace cpu {
namespace {

constexpr int64_t kTokens = 8;  // a task

// out = rope(x), or its inverse with sign = -1; out may be x.
template <class Out, class In>
void rotate(Out* out, const In* x, const float* cos, const float* sin, int64_t half, float sign) {
  for (int64_t i = 0; i < half; ++i) {
    const auto x0 = static_cast<float>(x[2 * i]), x1 = static_cast<float>(x[2 * i + 1]);
    const float s = sign * sin[i];
    out[2 * i] = Out(x0 * cos[i] - x1 * s);
    out[2 * i + 1] = Out(x0 * s + x1 * cos[i]);
  }
}

template <class E, class View>
E* head(const View& view, int64_t t, int64_t h) {
  return const_cast<E*>(view.template as<E>()) + t * view.stride[0] + h * view.stride[1];
}

}  // namespace

void mla_assemble(Stream& stream, const MlaAssemble& a) {
  const int64_t T = a.k.dim(0), H = a.k.dim(1), R = a.k_pe.dim(1), N = a.k.dim(2) - R;
  visit_float(a.k.dtype, [&]<class E>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch scratch) {
      E* k_pe = reinterpret_cast<E*>(scratch.data());
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        const int64_t p = a.positions.as<int32_t>()[t];
        const float* cos = a.cos.as<float>() + p * R / 2;
        const float* sin = a.sin.as<float>() + p * R / 2;
        rotate(k_pe, a.k_pe.as<E>() + t * a.k_pe.row_stride(), cos, sin, R / 2, 1);
        for (int64_t h = 0; h < H; ++h) {
          if (given(a.q)) {
            E* q = head<E>(a.q, t, h) + N;
            rotate(q, q, cos, sin, R / 2, 1);
          }
          E* k = head<E>(a.k, t, h);
          std::copy_n(head<const E>(a.k_nope, t, h), N, k);
          std::copy_n(k_pe, R, k + N);
        }
      }
    });
  });
}

void mla_assemble_backward(Stream& stream, const MlaAssembleBackward& a) {
  const int64_t T = a.dk.dim(0), H = a.dk.dim(1), R = a.dk_pe.dim(1), N = a.dk.dim(2) - R;
  visit_float(a.dk.dtype, [&]<class E>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch scratch) {
      float* sum = reinterpret_cast<float*>(scratch.data());
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        const int64_t p = a.positions.as<int32_t>()[t];
        const float* cos = a.cos.as<float>() + p * R / 2;
        const float* sin = a.sin.as<float>() + p * R / 2;
        std::fill_n(sum, R, 0.0f);
        for (int64_t h = 0; h < H; ++h) {
          if (given(a.dq)) {
            E* dq = head<E>(a.dq, t, h) + N;
            rotate(dq, dq, cos, sin, R / 2, -1);
          }
          const E* dk = head<const E>(a.dk, t, h);
          std::copy_n(dk, N, head<E>(a.dk_nope, t, h));
          for (int64_t i = 0; i < R; ++i) sum[i] += static_cast<float>(dk[N + i]);
        }
        rotate(a.dk_pe.as<E>() + t * a.dk_pe.row_stride(), sum, cos, sin, R / 2, -1);
      }
    });
  });
}

void rotate_heads(Stream& stream, const RotateHeads& a) {
  const int64_t T = a.x.dim(0), H = a.x.dim(1), R = a.x.dim(2);
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch) {
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        const int64_t p = a.positions.as<int32_t>()[t];
        for (int64_t h = 0; h < H; ++h) {
          E* x = head<E>(a.x, t, h);
          rotate(x, x, a.cos.as<float>() + p * R / 2, a.sin.as<float>() + p * R / 2, R / 2,
                 a.back ? -1.0f : 1.0f);
        }
      }
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
