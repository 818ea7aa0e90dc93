// Eight floats at a time, in the compilers' own vector type: the same source and the same bits on
// x86-64 and aarch64. Loads and stores take f32 or bf16 and any alignment. For .cc files of ops.
//
// A row is summed in eight lanes: element i is added to lane i mod 8, then the lanes are added in a
// fixed tree. The order depends on the row's length only.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace nereus::simd {

inline constexpr int64_t kWidth = 8;

using f32x8 = float __attribute__((vector_size(32)));
using i32x8 = int32_t __attribute__((vector_size(32)));
using u32x8 = uint32_t __attribute__((vector_size(32)));
using u16x8 = uint16_t __attribute__((vector_size(16)));
using i16x8 = int16_t __attribute__((vector_size(16)));

inline f32x8 splat(float x) { return f32x8{x, x, x, x, x, x, x, x}; }

inline f32x8 load(const float* p) {
  f32x8 v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline f32x8 load(const bf16* p) {
#if defined(__AVX2__) && defined(__FMA__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return f32x8(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
#else
  u16x8 h;
  memcpy(&h, p, sizeof h);
  const u32x8 w = __builtin_convertvector(h, u32x8) << 16;
  f32x8 v;
  memcpy(&v, &w, sizeof v);
  return v;
#endif
}
inline i32x8 load(const int16_t* p) {
  i16x8 h;
  memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, i32x8);
}
inline i32x8 bits(f32x8 v) {
  i32x8 b;
  memcpy(&b, &v, sizeof b);
  return b;
}
inline f32x8 from_bits(i32x8 b) {
  f32x8 v;
  memcpy(&v, &b, sizeof v);
  return v;
}
// Bits of the bf16 that v is rounded to.
inline u32x8 round_to_bf16(f32x8 v) {
  u32x8 u;
  memcpy(&u, &v, sizeof u);
  const u32x8 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const u32x8 quiet = (u >> 16) | 0x40u;
  const i32x8 is_nan = v != v;
  u32x8 mask;
  memcpy(&mask, &is_nan, sizeof mask);
  return (rounded & ~mask) | (quiet & mask);
}
inline void store(float* p, f32x8 v) { memcpy(p, &v, sizeof v); }
inline void store(bf16* p, f32x8 v) {
  const u16x8 h = __builtin_convertvector(round_to_bf16(v), u16x8);
  memcpy(p, &h, sizeof h);
}
inline void store(int16_t* p, i32x8 v) {  // the low 16 bits
  const i16x8 h = __builtin_convertvector(v, i16x8);
  memcpy(p, &h, sizeof h);
}

inline f32x8 select(i32x8 condition, f32x8 yes, f32x8 no) {
  i32x8 y, n;
  memcpy(&y, &yes, sizeof y);
  memcpy(&n, &no, sizeof n);
  const i32x8 bits = (y & condition) | (n & ~condition);
  f32x8 v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// a > b ? a : b in each lane: b where either is NaN.
inline f32x8 max(f32x8 a, f32x8 b) {
#if defined(__AVX2__) && defined(__FMA__)
  return f32x8(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return select(a > b, a, b);
#endif
}

// a * b + c, rounded once.
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) {
#if defined(__AVX2__) && defined(__FMA__)
  return f32x8(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__aarch64__)
  const auto low = [](f32x8 v) { return float32x4_t(__builtin_shufflevector(v, v, 0, 1, 2, 3)); };
  const auto high = [](f32x8 v) { return float32x4_t(__builtin_shufflevector(v, v, 4, 5, 6, 7)); };
  return f32x8(__builtin_shufflevector(vfmaq_f32(low(c), low(a), low(b)),
                                       vfmaq_f32(high(c), high(a), high(b)), 0, 1, 2, 3, 4, 5, 6,
                                       7));
#else
  for (int i = 0; i < kWidth; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

// Rows become columns.
inline void transpose(f32x8 (&r)[8]) {
  f32x8 pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] =
          __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      fours[i + 2 * j + 1] =
          __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(fours[i], fours[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = __builtin_shufflevector(fours[i], fours[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

inline float sum(f32x8 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
inline float max(f32x8 v) {
  float m = v[0];
  for (int i = 1; i < 8; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^r for |r| <= ln 2 / 2 by its Taylor polynomial of degree 7.
inline f32x8 exp_reduced(f32x8 r) {
  f32x8 p = fma(splat(1.0f / 5040), r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  return fma(p, r, splat(1.0f));
}

// x = n ln 2 + r with a whole n and |r| <= ln 2 / 2.
struct Reduced {
  f32x8 r;
  i32x8 n;
};
inline Reduced reduce(f32x8 x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its sum with n has n in its low bits
  const f32x8 shifted = fma(x, splat(1.44269504f), splat(kRound));
  const f32x8 n = shifted - splat(kRound);
  i32x8 bits;
  memcpy(&bits, &shifted, sizeof bits);
  return {fma(n, splat(-1.42860677e-6f), fma(n, splat(-0.693145752f), x)), bits - 0x4b400000};
}

// 2^n for n in [-127, 127]; 2^-127 is 0 here.
inline f32x8 power_of_two(i32x8 n) {
  const i32x8 bits = (n + 127) << 23;
  f32x8 v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// e^x to within 2 ulp; 0 below -87.33 (where it would be subnormal), infinity above 88.72, NaN for
// NaN. 2^n goes in two factors, since n = 128 has no float of its own.
inline f32x8 exp(f32x8 x) {
  const f32x8 low = max(splat(-88.0f), x);  // NaN stays
  const Reduced e = reduce(select(low > splat(89.0f), splat(89.0f), low));
  const i32x8 half = e.n >> 1;
  f32x8 y = exp_reduced(e.r) * power_of_two(half) * power_of_two(e.n - half);
  y = select(x < splat(-87.33f), splat(0.0f), y);
  return select(x > splat(88.7228317f), splat(__builtin_inff()), y);
}

// The same for x <= 0, give or take a rounding error, as softmax has it; at half the price. 0
// below -87.7 and for -infinity.
inline f32x8 exp_nonpositive(f32x8 x) {
  const Reduced e = reduce(max(splat(-88.0f), x));
  return exp_reduced(e.r) * power_of_two(e.n);
}

inline float exp(float x) { return exp(splat(x))[0]; }

// Calls f(i, n) for the whole vectors of [0, count) with n = 8, and at most once with the rest;
// E-typed partial loads and stores below serve that last call.
template <class E>
inline f32x8 load_partial(const E* p, int64_t n, float fill = 0) {
  f32x8 v = splat(fill);
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
template <class E>
inline void store_partial(E* p, f32x8 v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = E(v[i]);
}

inline i32x8 load_partial(const int16_t* p, int64_t n, float) {
  i32x8 v = {};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void store_partial(int16_t* p, i32x8 v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<int16_t>(v[i]);
}

// f(load, store) over a row: `body(get, put)`, where get(p, fill) loads from p + i and put(p, v)
// stores to p + i, for i = 0, 8, ... with the rest handled.
template <class Body>
inline void for_each(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    body([i](auto* p, float) { return load(p + i); }, [i](auto* p, auto v) { store(p + i, v); });
  }
  if (i < count) {
    const int64_t n = count - i;
    body([i, n](auto* p, float fill) { return load_partial(p + i, n, fill); },
         [i, n](auto* p, auto v) { store_partial(p + i, v, n); });
  }
}

}  // namespace nereus::simd
