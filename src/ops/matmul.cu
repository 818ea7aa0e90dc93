#include "ops/matmul_general.h"
#include "ops/product.cuh"

namespace nereus::ops::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kTile* kTile)
    matmul_kernel(E* out, int64_t stride, Elements a, Elements b, int64_t M, int64_t N, int64_t K,
                  bool accumulate) {
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  const float sum = tile_dot(a, b, M, N, K, row, column);
  const int64_t i = row + threadIdx.y, j = column + threadIdx.x;
  if (i >= M || j >= N) return;
  E* p = out + i * stride + j;
  *p = E(accumulate ? static_cast<float>(*p) + sum : sum);
}

}  // namespace

void matmul_general(Stream& stream, const Matmul& a) {
  const int64_t M = a.out.dim(0), N = a.out.dim(1), K = a.a.dim(a.trans_a ? 0 : 1);
  // A grid's second dim ends at 65535.
  constexpr int64_t kRows = int64_t{65535} * kTile;
  for (int64_t first = 0; first < M; first += kRows) {
    const int64_t rows = std::min(kRows, M - first);
    const dim3 grid(static_cast<unsigned>(ceil_div(N, kTile)),
                    static_cast<unsigned>(ceil_div(rows, kTile)));
    Elements left = elements(a.a, a.trans_a);
    left.data += first * left.row * size_of(a.a.dtype);
    visit_float(a.out.dtype, [&]<class E>() {
      matmul_kernel<E><<<grid, dim3(kTile, kTile), 0, native(stream)>>>(
          a.out.as<E>() + first * a.out.row_stride(), a.out.row_stride(), left,
          elements(a.b, a.trans_b), rows, N, K, a.accumulate);
    });
  }
  check_launch("matmul");
}

}  // namespace nereus::ops::cuda
