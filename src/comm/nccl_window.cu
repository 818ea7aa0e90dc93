#include "comm/nccl_window.h"
#include "device/cuda_runtime.h"

namespace nereus {
namespace {

__global__ void bases_kernel(int64_t* bases, ncclWindow_t window) {
  bases[threadIdx.x] =
      reinterpret_cast<int64_t>(ncclGetLsaPointer(window, 0, static_cast<int>(threadIdx.x)));
}

// A thread for each rank. What earlier kernels of this stream wrote, here or there, is seen by all
// before the flag is: the fence makes it so.
__global__ void meet_kernel(const Meeting m) {
  const int r = static_cast<int>(threadIdx.x);
  const auto flag_of = [&](int at, int from) {
    return reinterpret_cast<uint64_t*>(m.bases[at] + m.flags) + from;
  };
  __threadfence_system();
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag_of(r, m.rank)), "l"(m.number)
               : "memory");
  const uint64_t* const mine = flag_of(m.rank, r);
  const volatile int* const ended = m.ended;
  for (uint32_t looks = 1;; ++looks) {
    uint64_t seen;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(seen) : "l"(mine) : "memory");
    if (seen >= m.number) return;
    if (looks % 1024 == 0 && *ended != 0) return;
  }
}

}  // namespace

void launch_window_bases(int64_t* bases, int ranks, ncclWindow_t window, cudaStream_t stream) {
  bases_kernel<<<1, static_cast<unsigned>(ranks), 0, stream>>>(bases, window);
  cuda::check_launch("window");
}

void launch_meet(const Meeting& m, cudaStream_t stream) {
  meet_kernel<<<1, static_cast<unsigned>(m.ranks), 0, stream>>>(m);
  cuda::check_launch("meeting of a window");
}

}  // namespace nereus
