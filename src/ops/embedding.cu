#include "ops/cuda.cuh"
#include "ops/embedding.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(E* out, int64_t out_stride, const E* table, int64_t stride, const int* ids,
                   int64_t D) {
  const int64_t t = blockIdx.x;
  const E* row = table + ids[t] * stride;
  for (int64_t d = threadIdx.x * N; d < D; d += kThreads * N)
    Pack<E, N>::load(row + d).store(out + t * out_stride + d);
}

// first[v]: the first token whose id is v (T: none). Integers: the order of the atomics is free.
__global__ void __launch_bounds__(kThreads) first_kernel(int* first, const int* ids, int64_t T) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t < T) atomicMin(first + ids[t], static_cast<int>(t));
}

__global__ void __launch_bounds__(kThreads) none_kernel(int* first, int64_t V, int T) {
  const int64_t v = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (v < V) first[v] = T;
}

// next[t]: the next token with t's id, or -1. The threads of a block go over the ids together, a
// tile at a time; few to a block, so that all multiprocessors have some.
constexpr int kSearchers = 128;
__global__ void __launch_bounds__(kSearchers) next_kernel(int* next, const int* ids, int64_t T) {
  constexpr int kTile = 2048;
  __shared__ alignas(16) int tile[kTile];
  const int64_t t = int64_t{blockIdx.x} * kSearchers + threadIdx.x;
  const int id = t < T ? ids[t] : -1;
  int found = -1;
  for (int64_t begin = int64_t{blockIdx.x} * kSearchers; begin < T; begin += kTile) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile; i += kSearchers)
      tile[i] = begin + i < T ? ids[begin + i] : -2;
    __syncthreads();
    if (found < 0 && id >= 0) {
      int i = begin > t ? 0 : static_cast<int>(t + 1 - begin);
      for (; i % 16 != 0 && i < kTile && tile[i] != id; ++i) {
      }
      // Sixteen at a time until one of them is it.
      while (i % 16 == 0 && i < kTile) {
        const int4* four = reinterpret_cast<const int4*>(tile + i);
        bool here = false;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          here |= four[j].x == id || four[j].y == id || four[j].z == id || four[j].w == id;
        if (here) break;
        i += 16;
      }
      for (; i < kTile && tile[i] != id; ++i) {
      }
      if (i < kTile) found = static_cast<int>(begin + i);
    }
    if (__syncthreads_and(found >= 0 || id < 0)) break;
  }
  if (t < T) next[t] = found;
}

// The first token of an id adds up the rows of all of them, in order; the others do nothing.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(float* dtable, const E* dy, int64_t stride, const int* ids, const int* first,
                    const int* next, int64_t D, bool accumulate) {
  const int t = static_cast<int>(blockIdx.x);
  const int id = ids[t];
  if (first[id] != t) return;
  const int64_t d = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  if (d >= D) return;
  float* out = dtable + id * D + d;
  float sum[N];
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] = accumulate ? out[j] : 0.0f;
  for (int u = t; u >= 0;) {
    const int following = next[u];
    const auto row = Pack<E, N>::load(dy + u * stride + d);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += static_cast<float>(row[j]);
    u = following;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) out[j] = sum[j];
}

unsigned grid(int64_t n) { return static_cast<unsigned>(ceil_div(n, kThreads)); }

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& a) {
  const int64_t T = a.ids.dim(0), D = a.table.dim(1);
  if (T == 0 || D == 0) return;
  visit_width(aligned(a.out) && aligned(a.table), a.table.dtype, [&]<class E, int N>() {
    forward_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        a.out.as<E>(), a.out.row_stride(), a.table.as<E>(), a.table.row_stride(), a.ids.as<int>(),
        D);
  });
  check_launch("embedding_forward");
}

void embedding_backward(Stream& stream, const EmbeddingBackward& a) {
  const int64_t T = a.ids.dim(0), V = a.dtable.dim(0), D = a.dtable.dim(1);
  if (V == 0 || D == 0) return;
  if (!a.accumulate)
    cudaMemsetAsync(a.dtable.data, 0, static_cast<size_t>(a.dtable.bytes()), native(stream));
  if (T > 0) {
    int* const first = stream.state<Workspace>().take<int>(V + T);
    int* const next = first + V;
    const int* ids = a.ids.as<int>();
    none_kernel<<<grid(V), kThreads, 0, native(stream)>>>(first, V, static_cast<int>(T));
    first_kernel<<<grid(T), kThreads, 0, native(stream)>>>(first, ids, T);
    next_kernel<<<static_cast<unsigned>(ceil_div(T, kSearchers)), kSearchers, 0, native(stream)>>>(
        next, ids, T);
    visit_width(aligned(a.dy) && D % 8 == 0, a.dy.dtype, [&]<class E, int N>() {
      const dim3 blocks(static_cast<unsigned>(T), grid(ceil_div(D, N)));
      backward_kernel<E, N><<<blocks, kThreads, 0, native(stream)>>>(
          a.dtable.as<float>(), a.dy.as<E>(), a.dy.row_stride(), ids, first, next, D, a.accumulate);
    });
  }
  check_launch("embedding_backward");
}

}  // namespace nereus::ops::cuda
