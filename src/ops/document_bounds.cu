#include "ops/attention.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 1024;

// A block has a sequence and goes over it kThreads tokens at a time: a running maximum of the
// places where documents start.
__global__ void __launch_bounds__(kThreads)
    bounds_kernel(int* first_key, int* positions, const int* ids, int64_t S, int eos, bool causal) {
  __shared__ int tops[32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t sequence = int64_t{blockIdx.x} * S;
  int before = 0;  // the last start of earlier tiles
  for (int64_t begin = 0; begin < S; begin += kThreads) {
    const int64_t p = begin + threadIdx.x;
    const bool starts = !causal && p > 0 && p < S && ids[sequence + p - 1] == eos;
    int top = starts ? static_cast<int>(p) : 0;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, top, offset);
      if (lane >= offset) top = max(top, other);
    }
    __syncthreads();
    if (lane == 31) tops[warp] = top;
    __syncthreads();
    int all = before;
    top = max(top, before);
    for (int w = 0; w < 32; ++w) {
      if (w < warp) top = max(top, tops[w]);
      all = max(all, tops[w]);
    }
    before = all;
    if (p >= S) continue;
    first_key[sequence + p] = static_cast<int>(sequence) + top;
    positions[sequence + p] = static_cast<int>(p);
  }
}

}  // namespace

void document_bounds(Stream& stream, const DocumentBounds& a) {
  const int64_t sequences = a.ids.dim(0) / a.sequence;
  if (sequences == 0) return;
  bounds_kernel<<<static_cast<unsigned>(sequences), kThreads, 0, native(stream)>>>(
      a.first_key.as<int>(), a.positions.as<int>(), a.ids.as<int>(), a.sequence, a.eos_id,
      a.mask == AttentionMask::causal);
  check_launch("document_bounds");
}

}  // namespace nereus::ops::cuda
