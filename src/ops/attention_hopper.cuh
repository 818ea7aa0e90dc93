// Shared by the kernels of attention_hopper.h. For .cu files only.
#pragma once

#include <algorithm>

#include "ops/attention_hopper_kernels.h"
#include "ops/hopper.cuh"
#include "ops/mma.cuh"

namespace nereus::ops::cuda::hopper {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr int kThreads = 3 * 128;      // the copying warpgroup, then two that multiply
inline constexpr int kMultiplying = 2 * 128;  // threads
// Registers of a thread that copies and of one that multiplies; three warpgroups have 3 x 168.
template <int kCopying, int kMultiplying>
struct Registers {
  static_assert(kCopying + 2 * kMultiplying <= 3 * 168);
  static constexpr int copying = kCopying, multiplying = kMultiplying;
};

// f<Dqk, Dv>() for the narrowest kernels that heads of these widths fit into.
template <class F>
void visit_widths(int width_qk, int width_v, F&& f) {
  if (width_qk <= 64 && width_v <= 64) return f.template operator()<64, 64>();
  if (width_qk <= 128) return f.template operator()<128, 128>();
  f.template operator()<192, 128>();
}

constexpr int ceil_div_int(int n, int d) { return (n + d - 1) / d; }

__device__ inline uint32_t dynamic_shared_address() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(memory));
}

__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// The first product of a sum, or a further one.
template <bool kTransposedA, bool kTransposedB, int n>
__device__ inline void product(bool first, float (&d)[n], uint64_t a, uint64_t b) {
  if (first) {
    multiply<kTransposedA, kTransposedB>(d, a, b);
  } else {
    multiply_add<kTransposedA, kTransposedB>(d, a, b);
  }
}

template <bool kTransposedB, int n>
__device__ inline void product(bool first, float (&d)[n], const uint32_t (&a)[4], uint64_t b) {
  if (first) {
    multiply<kTransposedB>(d, a, b);
  } else {
    multiply_add<kTransposedB>(d, a, b);
  }
}

// Four words of each of the four lanes of a quad, transposed: lane c gets word c of all.
__device__ inline void transpose_quad(uint32_t (&w)[4], int lane) {
  const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w[i] : w[i + 1], 1);
    w[i] = odd ? other : w[i];
    w[i + 1] = odd ? w[i + 1] : other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? w[i] : w[i + 2], 2);
    w[i] = upper ? other : w[i];
    w[i + 2] = upper ? w[i + 2] : other;
  }
}

// Where a warp writes its 16 rows of a product: row 0 and column 0, the rows that exist, and the
// first column that does not.
struct Place {
  unsigned short* data;
  int64_t token;
  int rows, width;
};

// Writes a product's rows as bf16, 16 bytes a lane; `scale` of rows lane / 4 and lane / 4 + 8. With
// `accumulate` adds to what is there.
template <int n>
__device__ inline void write_rows(const Place& to, const float (&d)[n], float scale0, float scale1,
                                  int lane, bool accumulate) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float scale = half == 0 ? scale0 : scale1;
    unsigned short* const begin = to.data + row * to.token + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < n / 16; ++i) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = 4 * (4 * i + j) + 2 * half;
        w[j] = pack_bf16(d[at] * scale, d[at + 1] * scale);
      }
      transpose_quad(w, lane);
      if (row >= to.rows || 32 * i + lane % 4 * 8 >= to.width) continue;
      uint4* const place = reinterpret_cast<uint4*>(begin + 32 * i);
      if (accumulate) {
        const uint4 old = *place;
        const uint32_t o[4] = {old.x, old.y, old.z, old.w};
#pragma unroll
        for (int j = 0; j < 4; ++j)
          w[j] = pack_bf16(low_of(w[j]) + low_of(o[j]), high_of(w[j]) + high_of(o[j]));
      }
      *place = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

}  // namespace nereus::ops::cuda::hopper
