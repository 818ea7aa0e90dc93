#include "ops/arrivals.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// One block copies the rows of one sender and expert. There are few ranks and experts before it:
// their counts are summed anew.
__global__ void __launch_bounds__(kThreads)
    arrivals_kernel(int* row_of_arrival, int* arrival_of_row, int* local_offsets,
                    const int* offsets, int64_t stride, int64_t first, int P, int E) {
  const int r = static_cast<int>(blockIdx.x) / E, e = static_cast<int>(blockIdx.x) % E;
  const auto at = [&](int sender, int expert) { return offsets[sender * stride + first + expert]; };
  // Rows before this expert's, of all senders; of this expert, of the senders before; arrivals of
  // the senders before.
  int sums[3] = {0, 0, 0};
  for (int s = threadIdx.x; s < P; s += kThreads) {
    sums[0] += at(s, e) - at(s, 0);
    if (s < r) {
      sums[1] += at(s, e + 1) - at(s, e);
      sums[2] += at(s, E) - at(s, 0);
    }
  }
  __shared__ int total[3];
  if (threadIdx.x < 3) total[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 3; ++i) atomicAdd(&total[i], sums[i]);  // integers: any order
  __syncthreads();
  if (r == 0 && threadIdx.x == 0) {
    local_offsets[e] = total[0];
    if (e == E - 1) {
      int all = 0;
      for (int s = 0; s < P; ++s) all += at(s, E) - at(s, 0);
      local_offsets[E] = all;
    }
  }
  const int row = total[0] + total[1], arrival = total[2] + at(r, e) - at(r, 0);
  const int count = at(r, e + 1) - at(r, e);
  for (int i = threadIdx.x; i < count; i += kThreads) {
    row_of_arrival[arrival + i] = row + i;
    arrival_of_row[row + i] = arrival + i;
  }
}

}  // namespace

void arrivals(Stream& stream, const Arrivals& a) {
  const auto P = static_cast<int>(a.offsets.dim(0));
  const auto E = static_cast<int>(a.local_offsets.dim(0) - 1);
  if (P == 0 || E == 0) return;
  arrivals_kernel<<<static_cast<unsigned>(P * E), kThreads, 0, native(stream)>>>(
      a.row_of_arrival.as<int>(), a.arrival_of_row.as<int>(), a.local_offsets.as<int>(),
      a.offsets.as<int>(), a.offsets.dim(1), a.first, P, E);
  check_launch("arrivals");
}

}  // namespace nereus::ops::cuda
