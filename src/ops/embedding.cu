#include "ops/cuda.cuh"
#include "ops/embedding.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(E* out, int64_t out_stride, const E* table, int64_t stride, const int* ids,
                   int64_t first, int64_t V, int64_t D) {
  const int64_t t = blockIdx.x, v = ids[t] - first;
  const bool here = v >= 0 && v < V;
  const E* row = table + v * stride;
  for (int64_t d = threadIdx.x * N; d < D; d += kThreads * N)
    (here ? Pack<E, N>::load(row + d) : Pack<E, N>{}).store(out + t * out_stride + d);
}

// Links the tokens of each id: last[v] is one of them (-1: none), next[t] another or -1. In any
// order: the sums below sort them.
__global__ void __launch_bounds__(kThreads)
    link_kernel(int* last, int* next, const int* ids, int64_t T, int64_t first, int64_t V) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t >= T) return;
  const int64_t v = ids[t] - first;
  if (v >= 0 && v < V) next[t] = atomicExch(last + v, static_cast<int>(t));
}

constexpr int kMostListed = 1024;  // tokens of one id that are sorted in shared memory

// sum[] += the rows of `count` tokens in the order of `token(i)`, four loads at a time.
template <class E, int N, class Token>
__device__ void add_rows(float (&sum)[N], const E* dy, int64_t stride, int64_t d, int count,
                         Token token) {
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    Pack<E, N> row[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) row[j] = Pack<E, N>::load(dy + token(i + j) * stride + d);
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += static_cast<float>(row[j][k]);
  }
  for (; i < count; ++i) {
    const auto row = Pack<E, N>::load(dy + token(i) * stride + d);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += static_cast<float>(row[k]);
  }
}

// The block of the token that last[] names adds up the rows of all tokens of its id, in order of
// the tokens; the others do nothing.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(float* dtable, const E* dy, int64_t stride, const int* ids, const int* last,
                    const int* next, int64_t T, int64_t first, int64_t V, int64_t D,
                    bool accumulate) {
  __shared__ int listed[kMostListed], sorted[kMostListed];
  __shared__ int count;
  const int t = static_cast<int>(blockIdx.x);
  const int id = ids[t];
  const int64_t v = id - first;
  if (v < 0 || v >= V || last[v] != t) return;
  if (threadIdx.x == 0) {
    int n = 0;
    for (int u = t; u >= 0; u = next[u], ++n)
      if (n < kMostListed) listed[n] = u;
    count = n;
  }
  __syncthreads();
  const int n = count;
  if (n <= kMostListed) {
    for (int i = threadIdx.x; i < n; i += kThreads) {
      int rank = 0;
      for (int j = 0; j < n; ++j) rank += listed[j] < listed[i];
      sorted[rank] = listed[i];
    }
  }
  __syncthreads();
  for (int64_t d = threadIdx.x * N; d < D; d += kThreads * N) {
    float* out = dtable + v * D + d;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] = accumulate ? out[k] : 0.0f;
    if (n <= kMostListed) {
      add_rows<E, N>(sum, dy, stride, d, n, [&](int i) { return int64_t{sorted[i]}; });
    } else {
      for (int64_t u = 0; u < T; ++u)
        if (ids[u] == id) add_rows<E, N>(sum, dy, stride, d, 1, [&](int) { return u; });
    }
#pragma unroll
    for (int k = 0; k < N; ++k) out[k] = sum[k];
  }
}

unsigned grid(int64_t n) { return static_cast<unsigned>(ceil_div(n, kThreads)); }

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& a) {
  const int64_t T = a.ids.dim(0), D = a.table.dim(1);
  if (T == 0 || D == 0) return;
  visit_width(aligned(a.out) && aligned(a.table), a.table.dtype, [&]<class E, int N>() {
    forward_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        a.out.as<E>(), a.out.row_stride(), a.table.as<E>(), a.table.row_stride(), a.ids.as<int>(),
        a.first, a.table.dim(0), D);
  });
  check_launch("embedding_forward");
}

void embedding_backward(Stream& stream, const EmbeddingBackward& a) {
  const int64_t T = a.ids.dim(0), V = a.dtable.dim(0), D = a.dtable.dim(1);
  if (V == 0 || D == 0) return;
  if (!a.accumulate)
    cudaMemsetAsync(a.dtable.data, 0, static_cast<size_t>(a.dtable.bytes()), native(stream));
  if (T > 0) {
    int* const last = stream.state<Workspace>().take<int>(V + T);
    int* const next = last + V;
    const int* ids = a.ids.as<int>();
    cudaMemsetAsync(last, 0xff, static_cast<size_t>(V) * sizeof(int), native(stream));  // -1
    link_kernel<<<grid(T), kThreads, 0, native(stream)>>>(last, next, ids, T, a.first, V);
    visit_width(aligned(a.dy) && D % 8 == 0, a.dy.dtype, [&]<class E, int N>() {
      backward_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
          a.dtable.as<float>(), a.dy.as<E>(), a.dy.row_stride(), ids, last, next, T, a.first, V, D,
          a.accumulate);
    });
  }
  check_launch("embedding_backward");
}

}  // namespace nereus::ops::cuda
