// Initial values. Element i of the parameter called `name` is a function of (seed, name, i) alone:
//
//   u = (philox_u32(seed, hash_name(name), i) + 0.5) / 2^32
//   normal:     out[i] = mean + std * sqrt(2) * erfinv(2 u' - 1)
//   with u' = u, or, truncated to [low, high]: u' = cdf(low) + u * (cdf(high) - cdf(low))
//
// erfinv is a polynomial in f32 shared by host and device, so that both give the same bits. The
// tensor may be a part: its element j is element `first + j` of the whole.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct InitNormal {
  TensorView out;  // f32, contiguous
  uint64_t seed = 0;
  uint64_t stream = 0;  // hash_name(parameter name)
  int64_t first = 0;    // index in the whole parameter of out's first element
  float mean = 0, std = 1;
  float low = 0, high = 0;  // absolute bounds; low == high: not truncated
};

NEREUS_OP(init_normal, InitNormal)

}  // namespace nereus::ops
