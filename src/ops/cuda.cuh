// What the kernels of this folder share. For .cu files only.
//
// A launcher computes its grid from shapes, launches on native(stream), and ends with
// check_launch("op"). A kernel's fast path takes 16 bytes a thread (Pack); the general path, any
// size and alignment. Sums go through warp_sum and block_sum, whose order is fixed.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "device/cuda_runtime.h"
#include "device/device.h"

namespace nereus::ops::cuda {

using nereus::cuda::check_launch;

inline cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Is every row of this view fit for accesses of `bytes` (16, say)?
template <class View>
bool aligned(const View& v, int64_t bytes = 16) {
  if (reinterpret_cast<uintptr_t>(v.data) % static_cast<uintptr_t>(bytes) != 0) return false;
  for (int i = 0; i + 1 < v.rank(); ++i)
    if (v.stride[static_cast<size_t>(i)] * size_of(v.dtype) % bytes != 0) return false;
  return v.rank() == 0 || v.dim(v.rank() - 1) * size_of(v.dtype) % bytes == 0;
}

// N elements that move together: 16 bytes unless said otherwise.
template <class E, int N = 16 / static_cast<int>(sizeof(E))>
struct alignas(sizeof(E) * N) Pack {
  static constexpr int kSize = N;
  E v[N];

  __device__ static Pack load(const E* p) { return *reinterpret_cast<const Pack*>(p); }
  // For what no one else reads again: does not stay in the caches.
  __device__ static Pack load_once(const E* p) {
    static_assert(sizeof(Pack) == 16);
    const float4 raw = __ldcs(reinterpret_cast<const float4*>(p));
    Pack out;
    memcpy(&out, &raw, 16);
    return out;
  }
  __device__ void store(E* p) const { *reinterpret_cast<Pack*>(p) = *this; }
  __device__ E& operator[](int i) { return v[i]; }
  __device__ const E& operator[](int i) const { return v[i]; }
};

// f<E, N>() with N elements a Pack: 16 bytes of them, or one where some row is not fit for that.
template <class F>
void visit_width(bool packs, DType dtype, F&& f) {
  visit_float(dtype, [&]<class E>() {
    if (packs) {
      f.template operator()<E, Pack<E>::kSize>();
    } else {
      f.template operator()<E, 1>();
    }
  });
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline double warp_sum(double x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over the thread block, given to every thread. All threads call it; kThreads is a multiple
// of 32, at most 1024.
template <int kThreads, class T>
__device__ T block_sum(T x) {
  __shared__ T parts[kThreads / 32];
  x = warp_sum(x);
  __syncthreads();  // a former call may still be reading
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = parts[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) sum += parts[i];
  return sum;
}
template <int kThreads>
__device__ float block_max(float x) {
  __shared__ float parts[kThreads / 32];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float top = parts[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) top = fmaxf(top, parts[i]);
  return top;
}

}  // namespace nereus::ops::cuda
