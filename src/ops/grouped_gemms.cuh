// The three grouped GEMMs as instances of one CUTLASS kernel each: a source file a tile, since
// each takes a minute and a half to compile. For the .cu files of grouped_cutlass.h only.
#pragma once

#include "ops/grouped_cutlass.cuh"

namespace nereus::ops::cuda {

template <int M, int N, int K = 64>
using TileOf = cute::Shape<cute::Int<M>, cute::Int<N>, cute::Int<K>>;
template <int M, int N>
using ClusterOf = cute::Shape<cute::Int<M>, cute::Int<N>, cute::_1>;

// out[r, N] = a[r, K] b[e]^T, b[e] stored [N, K].
template <class TileShape, class ClusterShape, class Target>
struct ForwardProduct : GroupedKernel<cutlass::layout::RowMajor, cutlass::layout::ColumnMajor,
                                      cutlass::bfloat16_t, TileShape, ClusterShape, Target> {
  using Base = GroupedKernel<cutlass::layout::RowMajor, cutlass::layout::ColumnMajor,
                             cutlass::bfloat16_t, TileShape, ClusterShape, Target>;
  static __device__ void group(const typename Base::Groups& g, const GroupedProblem& p, int64_t e,
                               int64_t first, int64_t rows) {
    g.shape[e] = {static_cast<int>(rows), static_cast<int>(p.N), static_cast<int>(p.K)};
    g.a[e] = static_cast<const typename Base::Element*>(p.a) + first * p.K;
    g.b[e] = static_cast<const typename Base::Element*>(p.b) + e * p.N * p.K;
    g.out[e] = static_cast<cutlass::bfloat16_t*>(p.out) + first * p.N;
    g.stride_a[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
    g.stride_b[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
    g.stride_c[e] = cute::make_stride(p.N, cute::_1{}, cute::_0{});
  }
};

// out[r, N] = a[r, K] b[e], b[e] stored [K, N].
template <class TileShape, class ClusterShape, class Target>
struct DgradProduct : GroupedKernel<cutlass::layout::RowMajor, cutlass::layout::RowMajor,
                                    cutlass::bfloat16_t, TileShape, ClusterShape, Target> {
  using Base = GroupedKernel<cutlass::layout::RowMajor, cutlass::layout::RowMajor,
                             cutlass::bfloat16_t, TileShape, ClusterShape, Target>;
  static __device__ void group(const typename Base::Groups& g, const GroupedProblem& p, int64_t e,
                               int64_t first, int64_t rows) {
    g.shape[e] = {static_cast<int>(rows), static_cast<int>(p.N), static_cast<int>(p.K)};
    g.a[e] = static_cast<const typename Base::Element*>(p.a) + first * p.K;
    g.b[e] = static_cast<const typename Base::Element*>(p.b) + e * p.N * p.K;
    g.out[e] = static_cast<cutlass::bfloat16_t*>(p.out) + first * p.N;
    g.stride_a[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
    g.stride_b[e] = cute::make_stride(cute::_1{}, p.N, cute::_0{});
    g.stride_c[e] = cute::make_stride(p.N, cute::_1{}, cute::_0{});
  }
};

// out[e] (+)= a[r, N]^T b[r, K] over the rows of e. An expert without rows has no tiles: a GEMM
// with nothing to sum over would write whatever was in its registers.
template <class TileShape, class ClusterShape, class Target>
struct WgradProduct : GroupedKernel<cutlass::layout::ColumnMajor, cutlass::layout::RowMajor, float,
                                    TileShape, ClusterShape, Target> {
  using Base = GroupedKernel<cutlass::layout::ColumnMajor, cutlass::layout::RowMajor, float,
                             TileShape, ClusterShape, Target>;
  static __device__ void group(const typename Base::Groups& g, const GroupedProblem& p, int64_t e,
                               int64_t first, int64_t rows) {
    g.shape[e] = {rows > 0 ? static_cast<int>(p.N) : 0, static_cast<int>(p.K),
                  static_cast<int>(rows)};
    g.a[e] = static_cast<const typename Base::Element*>(p.a) + first * p.N;
    g.b[e] = static_cast<const typename Base::Element*>(p.b) + first * p.K;
    g.out[e] = static_cast<float*>(p.out) + e * p.N * p.K;
    g.stride_a[e] = cute::make_stride(cute::_1{}, p.N, cute::_0{});
    g.stride_b[e] = cute::make_stride(cute::_1{}, p.K, cute::_0{});
    g.stride_c[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
  }
};

template <class Product>
__global__ void groups_kernel(typename Product::Groups g, GroupedProblem p) {
  const int64_t e = threadIdx.x + int64_t{blockIdx.x} * blockDim.x;
  if (e >= p.groups) return;
  Product::group(g, p, e, p.offsets[e], p.offsets[e + 1] - p.offsets[e]);
}

template <class Product>
void run_grouped(Stream& stream, const char* op, const GroupedProblem& p) {
  auto& state = stream.state<typename Product::State>();
  if (p.offsets == nullptr) return state.reserve(p.groups);
  const typename Product::Groups groups = state.groups(p.groups);
  const auto blocks = static_cast<unsigned>(ceil_div(p.groups, 128));
  groups_kernel<Product><<<blocks, 128, 0, native(stream)>>>(groups, p);
  Product::run(stream, op, groups, p, state);
  check_launch(op);
}

}  // namespace nereus::ops::cuda
