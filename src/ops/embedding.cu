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

// A thread's part of a row is kPieces pieces of N elements; it has that of kAhead rows on their
// way.
constexpr int kPieces = 2, kAhead = 4;

// sum += dy's rows token(0), .., token(count - 1), in this order, where those have elements.
template <class E, int N, class Token>
__device__ void add_rows(float (&sum)[kPieces][N], const E* dy, int64_t stride, int64_t d,
                         int64_t D, int count, Token token) {
  for (int i = 0; i < count; i += kAhead) {
    Pack<E, N> rows[kAhead][kPieces];
#pragma unroll
    for (int r = 0; r < kAhead; ++r)
#pragma unroll
      for (int p = 0; p < kPieces; ++p)
        if (i + r < count && d + p * kThreads * N < D)
          rows[r][p] = Pack<E, N>::load(dy + token(i + r) * stride + d + p * kThreads * N);
#pragma unroll
    for (int r = 0; r < kAhead; ++r)
#pragma unroll
      for (int p = 0; p < kPieces; ++p)
        if (i + r < count && d + p * kThreads * N < D)
#pragma unroll
          for (int k = 0; k < N; ++k) sum[p][k] += static_cast<float>(rows[r][p][k]);
  }
}

// The tokens of an id in ascending order, from links in any order; their number. Beyond kMostListed
// only the number counts.
__device__ int sort_tokens(int (&sorted)[kMostListed], const int* next, int last) {
  __shared__ int listed[kMostListed];
  __shared__ int count;
  if (threadIdx.x == 0) {
    int n = 0;
    for (int u = last; u >= 0; u = next[u], ++n)
      if (n < kMostListed) listed[n] = u;
    count = n;
  }
  __syncthreads();
  const int n = count;
  if (n <= kMostListed) {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      int rank = 0;
      for (int j = 0; j < n; ++j) rank += listed[j] < listed[i];
      sorted[rank] = listed[i];
    }
  }
  __syncthreads();
  return n;
}

// A thread block has a part of a row of the table: the sum of dy's rows of all tokens of its id, in
// order of the tokens. Each row is written once, zeros included; rows without tokens are left alone
// when there is something to add to.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(float* dtable, const E* dy, int64_t stride, const int* ids, const int* last,
                    const int* next, int64_t T, int64_t first, int64_t D, bool accumulate) {
  __shared__ int sorted[kMostListed];
  const int64_t v = blockIdx.x, d = (int64_t{blockIdx.y} * kPieces * kThreads + threadIdx.x) * N;
  float* const out = dtable + v * D;
  const int newest = last[v];
  if (newest < 0 && accumulate) return;
  float sum[kPieces][N] = {};
  if (accumulate) add_rows(sum, out, 0, d, D, 1, [](int) { return 0; });
  // Most ids of a large vocabulary have one token or none: nothing to sort, and its row is on its
  // way while the link is read.
  Pack<E, N> row_of_newest[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p)
    if (newest >= 0 && d + p * kThreads * N < D)
      row_of_newest[p] = Pack<E, N>::load(dy + newest * stride + d + p * kThreads * N);
  const bool alone = newest >= 0 && next[newest] < 0;
  const int n = newest < 0 || alone ? 0 : sort_tokens(sorted, next, newest);
  if (alone) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (d + p * kThreads * N < D)
#pragma unroll
        for (int k = 0; k < N; ++k) sum[p][k] += static_cast<float>(row_of_newest[p][k]);
  } else if (n <= kMostListed) {
    add_rows(sum, dy, stride, d, D, n, [&](int i) { return sorted[i]; });
  } else {
    for (int64_t u = 0; u < T; ++u)
      if (ids[u] - first == v) add_rows(sum, dy, stride, d, D, 1, [&](int) { return u; });
  }
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int64_t at = d + p * kThreads * N;
    if (at >= D) continue;
    Pack<float, N> row;
#pragma unroll
    for (int k = 0; k < N; ++k) row[k] = sum[p][k];
    row.store(out + at);
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

void plan(Stream& stream, const EmbeddingBackward& a) {
  stream.state<Workspace>().reserve<int>(a.dtable.dim(0) + a.ids.dim(0));
}

void embedding_backward(Stream& stream, const EmbeddingBackward& a) {
  const int64_t T = a.ids.dim(0), V = a.dtable.dim(0), D = a.dtable.dim(1);
  if (V == 0 || D == 0) return;
  int* const last = stream.state<Workspace>().take<int>(V + T);
  int* const next = last + V;
  const int* ids = a.ids.as<int>();
  cudaMemsetAsync(last, 0xff, static_cast<size_t>(V) * sizeof(int), native(stream));  // -1
  if (T > 0) link_kernel<<<grid(T), kThreads, 0, native(stream)>>>(last, next, ids, T, a.first, V);
  visit_float(a.dy.dtype, [&]<class E>() {
    const auto launch = [&]<int N>() {
      const dim3 grid(static_cast<unsigned>(V),
                      static_cast<unsigned>(ceil_div(D, kPieces * kThreads * N)));
      backward_kernel<E, N><<<grid, kThreads, 0, native(stream)>>>(
          a.dtable.as<float>(), a.dy.as<E>(), a.dy.row_stride(), ids, last, next, T, a.first, D,
          a.accumulate);
    };
    // 16 bytes of the table, which is contiguous, and as many elements of dy.
    if (aligned(a.dtable) && aligned(a.dy, 4 * sizeof(E))) {
      launch.template operator()<4>();
    } else {
      launch.template operator()<1>();
    }
  });
  check_launch("embedding_backward");
}

}  // namespace nereus::ops::cuda
