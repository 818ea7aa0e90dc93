// A product of small tiles in plain f32 arithmetic: what the general paths of dense and grouped
// GEMMs are made of. For .cu files only.
#pragma once

#include "ops/cuda.cuh"

namespace nereus::ops::cuda {

// Elements of a matrix of either type, whose (i, j) lies at i * row + j * column.
struct Elements {
  const std::byte* data;
  bool is_bf16;
  int64_t row, column;

  __device__ float at(int64_t i, int64_t j) const {
    const int64_t k = i * row + j * column;
    return is_bf16 ? static_cast<float>(reinterpret_cast<const bf16*>(data)[k])
                   : reinterpret_cast<const float*>(data)[k];
  }
  __device__ Elements from(int64_t i, int64_t j) const {
    return {data + (i * row + j * column) * (is_bf16 ? 2 : 4), is_bf16, row, column};
  }
};

inline Elements elements(const ConstTensorView& v, bool transposed) {
  return {v.data, v.dtype == DType::bf16, transposed ? 1 : v.row_stride(),
          transposed ? v.row_stride() : 1};
}

inline constexpr int kTile = 16;  // a thread block has kTile x kTile threads, one an element

// The element of a[M,K] b[K,N] at (i, j) = the thread's place in the tile that starts at
// (first_row, first_column); 0 outside. All threads of the block call it.
__device__ inline float tile_dot(const Elements& a, const Elements& b, int64_t M, int64_t N,
                                 int64_t K, int64_t first_row, int64_t first_column) {
  __shared__ float left[kTile][kTile + 1], right[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t i = first_row + y, j = first_column + x;
  float sum = 0;
  for (int64_t k = 0; k < K; k += kTile) {
    left[y][x] = i < M && k + x < K ? a.at(i, k + x) : 0.0f;
    right[y][x] = k + y < K && j < N ? b.at(k + y, j) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kTile; ++p) sum = fmaf(left[y][p], right[p][x], sum);
    __syncthreads();
  }
  return sum;
}

}  // namespace nereus::ops::cuda
