// What the kernels of rmsnorm share: how a row lies over threads. For .cu files only.
#pragma once

#include "ops/cuda.cuh"
#include "ops/rmsnorm.h"

namespace nereus::ops::cuda {

// A row of D elements in packs of N: kPacks of them for each of kThreads threads, a warp or a
// thread block, of which a block has kRows. A full row has a pack at every place: the kernel then
// has no branches, and all its loads are under way before the first is used.
template <int kThreads, int kPacks, int N, int kRows = 1, bool kFull = false>
struct RowPlan {
  static_assert(kRows == 1 || kThreads == 32);
  static constexpr int packs = kPacks, width = N, rows = kRows;
  static constexpr int block = kThreads * kRows;
  static_assert(packs >= 0 && width > 0 && rows > 0);
  // The same with other numbers of rows in a block.
  template <int kOtherRows>
  using With = RowPlan<kThreads, kPacks, N, kThreads == 32 ? kOtherRows : 1, kFull>;

  // Which of its block's rows a thread is at, its place there, the first of its pack i, and whether
  // there is such a pack.
  __device__ static int row() { return kRows == 1 ? 0 : static_cast<int>(threadIdx.x) / kThreads; }
  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  __device__ static int element(int i) { return (thread() + i * kThreads) * N; }
  __device__ static bool has(int i, int D) { return kFull || element(i) < D; }
  // The sum over a row's threads, given to each.
  __device__ static float sum(float x) {
    if constexpr (kThreads == 32) {
      return warp_sum(x);
    } else {
      return block_sum<kThreads>(x);
    }
  }
};

// f.operator()<E, Plan>() with the smallest plan that holds a row; one whose kPacks is 0 holds none
// and goes over rows in a loop, an element at a time.
template <class F>
void visit_plan(bool wide, DType dtype, int64_t D, F&& f) {
  visit_float(dtype, [&]<class E>() {
    constexpr int N = Pack<E>::kSize;
    const int64_t packs = D / N;
    const auto visit = [&]<int kThreads, int kPacks, int kRows>() {
      if (packs == kPacks * kThreads) {
        f.template operator()<E, RowPlan<kThreads, kPacks, N, kRows, true>>();
      } else {
        f.template operator()<E, RowPlan<kThreads, kPacks, N, kRows>>();
      }
    };
    if (!wide || packs > 4 * 512) {
      f.template operator()<E, RowPlan<256, 0, 1>>();
    } else if (packs <= 2 * 32) {
      visit.template operator()<32, 2, 8>();
    } else if (packs <= 6 * 32) {
      visit.template operator()<32, 6, 8>();
    } else if (packs <= 2 * 256) {
      visit.template operator()<256, 2, 1>();
    } else if (packs <= 2 * 448) {
      visit.template operator()<448, 2, 1>();
    } else {
      visit.template operator()<512, 4, 1>();
    }
  });
}

template <class E>
struct Rows {
  E* data;
  int64_t stride;
  __device__ E* row(int64_t t) const { return data + t * stride; }
};
template <class E, class View>
auto rows_of(const View& v) {
  using Element = std::remove_pointer_t<decltype(v.template as<E>())>;
  return Rows<Element>{v.template as<E>(), v.rank() > 0 ? v.row_stride() : 0};
}

// N weights, 16 bytes a load.
template <int N>
__device__ void load_weights(float (&w)[N], const float* from) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const auto four = Pack<float>::load(from + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[i + j] = four[j];
  }
}

// What two norms in one launch may be: bf16 rows of 1536 and 512, the latents of queries and keys.
template <int kRows>
using First = RowPlan<32, 6, Pack<bf16>::kSize, kRows, true>;
template <int kRows>
using Second = RowPlan<32, 2, Pack<bf16>::kSize, kRows, true>;

template <class Arguments>
bool pairs(const Arguments& a, const Arguments& b) {
  return a.x.dtype == DType::bf16 && a.x.dim(0) > 0 && a.x.dim(1) == 1536 && b.x.dim(1) == 512;
}

}  // namespace nereus::ops::cuda
