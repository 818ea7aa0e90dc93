#include "ops/cuda.cuh"
#include "ops/init.h"
#include "ops/init_math.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// A thread has the elements of one Philox block: four, fewer at the ends.
__global__ void __launch_bounds__(kThreads)
    normal_kernel(float* out, int64_t n, InitNormal a, Probabilities p) {
  const auto first = static_cast<uint64_t>(a.first);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;;
       i += int64_t{gridDim.x} * kThreads) {
    const uint64_t block = (first >> 2) + static_cast<uint64_t>(i);
    const int64_t begin = static_cast<int64_t>(block * 4) - a.first;  // of the block, in out
    if (begin >= n) return;
    const Philox4 bits = philox(a.seed, block, a.stream);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (begin + j >= 0 && begin + j < n) out[begin + j] = initial_value(a, p, bits.v[j]);
  }
}

}  // namespace

void init_normal(Stream& stream, const InitNormal& a) {
  const int64_t n = a.out.count();
  if (n == 0) return;
  const int64_t blocks =
      std::min<int64_t>(ceil_div(n / 4 + 2, kThreads), int64_t{stream.sm_count()} * 32);
  normal_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(
      a.out.as<float>(), n, a, probabilities(a));
  check_launch("init_normal");
}

}  // namespace nereus::ops::cuda
