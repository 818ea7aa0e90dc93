#include "ops/cuda.cuh"
#include "ops/split_master.h"
#include "ops/split_math.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// Done when weights are loaded or saved: an element a thread is fast enough.
template <class M>
__global__ void __launch_bounds__(kThreads)
    split_kernel(bf16* copy, int16_t* remainder, M* v, const float* x, int64_t n) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const MasterParts p = split(x[i]);
    copy[i] = p.copy;
    remainder[i] = p.remainder;
    v[i] = M(with_sign(magnitude(static_cast<float>(v[i])), p.tie_down));
  }
}

template <class M>
__global__ void __launch_bounds__(kThreads)
    join_kernel(float* x, const bf16* copy, const int16_t* remainder, const M* v, int64_t n) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    x[i] = join({copy[i], remainder[i], negative(static_cast<float>(v[i]))});
}

unsigned blocks(const Stream& stream, int64_t n) {
  return static_cast<unsigned>(
      std::min<int64_t>(ceil_div(n, kThreads), int64_t{stream.sm_count()} * 32));
}

}  // namespace

void split_master(Stream& stream, const SplitMaster& a) {
  const int64_t n = a.x.count();
  if (n == 0) return;
  visit_float(a.v.dtype, [&]<class M>() {
    split_kernel<M><<<blocks(stream, n), kThreads, 0, native(stream)>>>(
        a.copy.as<bf16>(), a.remainder.as<int16_t>(), a.v.as<M>(), a.x.as<float>(), n);
  });
  check_launch("split_master");
}

void join_master(Stream& stream, const JoinMaster& a) {
  const int64_t n = a.x.count();
  if (n == 0) return;
  visit_float(a.v.dtype, [&]<class M>() {
    join_kernel<M><<<blocks(stream, n), kThreads, 0, native(stream)>>>(
        a.x.as<float>(), a.copy.as<bf16>(), a.remainder.as<int16_t>(), a.v.as<M>(), n);
  });
  check_launch("join_master");
}

}  // namespace nereus::ops::cuda
