// The arithmetic of initial values, the same bits on host and device: f32 operations only, none of
// which may be contracted (the build says so).
#pragma once

#include <cmath>
#include <cstdint>

#include "base/philox.h"
#include "ops/init.h"

namespace nereus::ops {

// erf^-1 on (-1, 1), relative error below 4e-7 (M. Giles, "Approximating the erfinv function", GPU
// Computing Gems, 2010: its single-precision polynomials), with -log((1-x)(1+x)) given as w.
NEREUS_HD inline float erfinv_from_log(float x, float w) {
  float p;
  if (w < 5.0f) {
    w = w - 2.5f;
    p = 2.81022636e-08f;
    p = 3.43273939e-07f + p * w;
    p = -3.5233877e-06f + p * w;
    p = -4.39150654e-06f + p * w;
    p = 0.00021858087f + p * w;
    p = -0.00125372503f + p * w;
    p = -0.00417768164f + p * w;
    p = 0.246640727f + p * w;
    p = 1.50140941f + p * w;
  } else {
    w = sqrtf(w) - 3.0f;
    p = -0.000200214257f;
    p = 0.000100950558f + p * w;
    p = 0.00134934322f + p * w;
    p = -0.00367342844f + p * w;
    p = 0.00573950773f + p * w;
    p = -0.0076224613f + p * w;
    p = 0.00943887047f + p * w;
    p = 1.00167406f + p * w;
    p = 2.83297682f + p * w;
  }
  return p * x;
}

// ln y for a normal y > 0: y = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s) with
// s = (m - 1) / (m + 1), whose series to s^11 is good to 1e-7 there.
NEREUS_HD inline float log_polynomial(float y) {
  uint32_t u;
  memcpy(&u, &y, 4);
  int e = static_cast<int>(u >> 23) - 127;
  u = (u & 0x007fffffu) | 0x3f800000u;
  float m;
  memcpy(&m, &u, 4);
  if (m > 1.41421356f) {
    m = m * 0.5f;
    e = e + 1;
  }
  const float s = (m - 1.0f) / (m + 1.0f);
  const float z = s * s;
  float p = 1.0f / 11;
  p = 1.0f / 9 + p * z;
  p = 1.0f / 7 + p * z;
  p = 1.0f / 5 + p * z;
  p = 1.0f / 3 + p * z;
  p = 1.0f + p * z;
  return static_cast<float>(e) * 0.693147182f + 2.0f * s * p;
}

// The standard normal number whose cumulative probability is low + width * (bits + 0.5) / 2^32.
// The distance of the probability from the nearer end is kept exact, so that tails have no steps.
NEREUS_HD inline float normal_quantile(uint32_t bits, float low, float width) {
  const float u = (static_cast<float>(bits >> 8) + 0.5f) * 5.9604644775390625e-08f;  // 2^-24
  const float probability = low + width * u;
  const float x = 2.0f * probability - 1.0f;
  const float w = -log_polynomial((1.0f - x) * (1.0f + x));
  return 1.41421356f * erfinv_from_log(x, w);
}

// Where the distribution begins, as a cumulative probability, and how much of it there is.
struct Probabilities {
  float low = 0, width = 1;
};
Probabilities probabilities(const InitNormal&);  // on the host, in double

NEREUS_HD inline float initial_value(const InitNormal& a, const Probabilities& p, uint32_t bits) {
  const float x = a.mean + a.std * normal_quantile(bits, p.low, p.width);
  if (a.low == a.high) return x;  // not truncated
  return x < a.low ? a.low : x > a.high ? a.high : x;
}

}  // namespace nereus::ops
