#include "ops/cross_entropy_parts.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float exp_below(float x, float top) { return top == -INFINITY ? 0.0f : expf(x - top); }

// A block has a row.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    stats_kernel(float* stats, const E* logits, int64_t stride, const int* labels, int64_t first,
                 int64_t T, int64_t V) {
  const int64_t t = blockIdx.x;
  const E* x = logits + t * stride;
  float top = -INFINITY, sum = 0;
  for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) {
    const auto pack = Pack<E, N>::load(x + v);
#pragma unroll
    for (int k = 0; k < N; ++k) top = fmaxf(top, static_cast<float>(pack[k]));
  }
  top = block_max<kThreads>(top);
  for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) {
    const auto pack = Pack<E, N>::load(x + v);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += exp_below(static_cast<float>(pack[k]), top);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x > 0) return;
  const int64_t label = labels[t] - first;
  const bool here = labels[t] >= 0 && label >= 0 && label < V;
  stats[t] = top;
  stats[T + t] = sum;
  stats[2 * T + t] = here ? static_cast<float>(x[label]) : 0.0f;
}

template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    join_kernel(E* logits, int64_t stride, float* nll, const float* stats, int64_t parts,
                const int* labels, int64_t first, float scale, bool loss_only, int64_t T,
                int64_t V) {
  const int64_t t = blockIdx.x;
  E* x = logits + t * stride;
  const int label = labels[t];
  float top = -INFINITY, sum = 0, at_label = 0;
  for (int64_t p = 0; p < parts; ++p) top = fmaxf(top, stats[p * 3 * T + t]);
  for (int64_t p = 0; p < parts; ++p) {
    const float* part = stats + p * 3 * T;
    sum += part[T + t] * exp_below(part[t], top);
    at_label += part[2 * T + t];
  }
  if (threadIdx.x == 0) nll[t] = label < 0 ? 0.0f : logf(sum) + (top - at_label);
  if (loss_only) return;
  const float factor = scale / sum;
  for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) {
    auto pack = Pack<E, N>::load(x + v);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float p = exp_below(static_cast<float>(pack[k]), top) * factor;
      pack[k] = E(label < 0 ? 0.0f : v + k + first == label ? p - scale : p);
    }
    pack.store(x + v);
  }
}

}  // namespace

void cross_entropy_stats(Stream& stream, const CrossEntropyStats& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  if (T == 0) return;
  visit_width(aligned(a.logits), a.logits.dtype, [&]<class E, int N>() {
    stats_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        a.stats.as<float>(), a.logits.as<E>(), a.logits.row_stride(), a.labels.as<int>(), a.first,
        T, V);
  });
  check_launch("cross_entropy_stats");
}

void cross_entropy_join(Stream& stream, const CrossEntropyJoin& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  if (T == 0) return;
  visit_width(aligned(a.logits), a.logits.dtype, [&]<class E, int N>() {
    join_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        a.logits.as<E>(), a.logits.row_stride(), a.nll.as<float>(), a.stats.as<float>(),
        a.stats.dim(0), a.labels.as<int>(), a.first, a.scale, a.loss_only, T, V);
  });
  check_launch("cross_entropy_join");
}

}  // namespace nereus::ops::cuda
