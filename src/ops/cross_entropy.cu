#include <cooperative_groups.h>

#include "ops/cross_entropy.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPacks = 8;      // of a row, in a thread's registers
constexpr int kMostParts = 8;  // of a row: thread blocks that every Hopper can run as one cluster

// exp in two instructions; results below 2^-126 are zero. x is 0 or less, so that the error is that
// of rounding x * log2(e).
__device__ float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}

// The largest logit of a part of a row, and the sum of exp(x - top) over that part.
struct Softmax {
  float top, sum;

  __device__ void add(float x) {
    if (x == -INFINITY) return;
    if (x <= top) {
      sum += fast_exp(x - top);
    } else {
      sum = sum * fast_exp(top - x) + 1.0f;
      top = x;
    }
  }
};

// That of the whole row, given to every thread of the cluster: each block writes its own into every
// block's shared memory. `gathered` is in shared memory; the caller has arrived at the cluster's
// barrier once, so that all blocks are known to run.
__device__ Softmax cluster_softmax(Softmax mine, Softmax* gathered, int parts, int part) {
  const auto cluster = cooperative_groups::this_cluster();
  cluster.barrier_wait();
  if (threadIdx.x < parts) *cluster.map_shared_rank(gathered + part, threadIdx.x) = mine;
  cluster.sync();
  Softmax all{gathered[0].top, 0};
  for (int i = 1; i < parts; ++i) all.top = fmaxf(all.top, gathered[i].top);
  for (int i = 0; i < parts; ++i) all.sum += gathered[i].sum * fast_exp(gathered[i].top - all.top);
  return all;
}

// Sixteen bytes of a row between passes. Each pass unpacks them anew: the compiler may not keep the
// floats of one pass for the next, for which there are no registers.
template <class E>
struct Held {
  static constexpr unsigned kMinusInfinity = sizeof(E) == 2 ? 0xff80ff80u : 0xff800000u;
  uint4 words = {kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};

  __device__ void load(const E* p) { words = *reinterpret_cast<const uint4*>(p); }
  __device__ Pack<E> unpack() {
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    Pack<E> pack;
    memcpy(&pack, &words, 16);
    return pack;
  }
};

// What a finished row's softmax makes of its logits.
struct Gradient {
  float top, factor, at_label;

  __device__ Gradient(const Softmax& all, float label_logit, float scale)
      : top(all.top),
        factor(scale / all.sum),
        at_label(scale * (fast_exp(label_logit - all.top) / all.sum - 1.0f)) {}

  // `label`: which of the pack's logits is the label's, if any is.
  template <class P, class Int>
  __device__ P operator()(const P& pack, Int label) const {
    using E = std::remove_cvref_t<decltype(pack[0])>;
    P out;
#pragma unroll
    for (int j = 0; j < P::kSize; ++j)
      out[j] = E(j == label ? at_label : fast_exp(static_cast<float>(pack[j]) - top) * factor);
    return out;
  }
};

// A cluster of `parts` blocks has a row, each block `packs` packs of it in registers: the row is
// read once and written once.
template <class E>
__global__ void __launch_bounds__(kThreads, 4)
    resident_kernel(E* logits, int64_t stride, float* nll, const int* labels, int V, int parts,
                    int packs, float scale, bool loss_only) {
  constexpr int N = Pack<E>::kSize;
  __shared__ Softmax gathered[kMostParts];
  const int64_t t = blockIdx.x / parts;
  const int part = static_cast<int>(blockIdx.x % parts);
  const int begin = part * packs * N, n = min(V - begin, packs * N);  // n < 1: nothing to do
  E* const x = logits + t * stride + begin;
  const int label = labels[t];
  if (label < 0) {  // in all blocks of the cluster
    if (part == 0 && threadIdx.x == 0) nll[t] = 0;
    if (loss_only) return;
    for (int v = static_cast<int>(threadIdx.x); v < n; v += kThreads) x[v] = E(0.0f);
    return;
  }
  if (parts > 1) cooperative_groups::this_cluster().barrier_arrive();
  const float label_logit = static_cast<float>(x[label - begin]);
  const int first = static_cast<int>(threadIdx.x) * N;
  constexpr int kStep = kThreads * N;
  Held<E> row[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i)
    if (first + i * kStep < n) row[i].load(x + first + i * kStep);
  Softmax all{-INFINITY, 0};
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const auto pack = row[i].unpack();
#pragma unroll
    for (int j = 0; j < N; ++j) all.top = fmaxf(all.top, static_cast<float>(pack[j]));
  }
  all.top = block_max<kThreads>(all.top);
  const float shift = all.top == -INFINITY ? 0.0f : all.top;  // nothing here: exp is 0
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const auto pack = row[i].unpack();
#pragma unroll
    for (int j = 0; j < N; ++j) all.sum += fast_exp(static_cast<float>(pack[j]) - shift);
  }
  all.sum = block_sum<kThreads>(all.sum);
  // Stores begin after this: by then every thread of the row has read the label's logit.
  if (parts > 1) all = cluster_softmax(all, gathered, parts, part);
  if (part == 0 && threadIdx.x == 0) nll[t] = logf(all.sum) + (all.top - label_logit);
  if (loss_only) return;
  const Gradient gradient(all, label_logit, scale);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int v = first + i * kStep;
    if (v < n) gradient(row[i].unpack(), label - begin - v).store(x + v);
  }
}

// Any length and alignment. A block has a row and reads it twice.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    general_kernel(E* logits, int64_t stride, float* nll, const int* labels, int64_t V, float scale,
                   bool loss_only) {
  using P = Pack<E, N>;
  const int64_t t = blockIdx.x;
  E* const x = logits + t * stride;
  const int label = labels[t];
  if (label < 0) {
    if (threadIdx.x == 0) nll[t] = 0;
    if (loss_only) return;
    for (int64_t v = threadIdx.x; v < V; v += kThreads) x[v] = E(0.0f);
    return;
  }
  const float label_logit = static_cast<float>(x[label]);
  Softmax mine{-INFINITY, 0};
  for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) {
    const P pack = P::load(x + v);
#pragma unroll
    for (int j = 0; j < N; ++j) mine.add(static_cast<float>(pack[j]));
  }
  const float top = block_max<kThreads>(mine.top);  // all have read the label's logit by now
  const float part = mine.top == -INFINITY ? 0.0f : mine.sum * fast_exp(mine.top - top);
  const Softmax all{top, block_sum<kThreads>(part)};
  if (threadIdx.x == 0) nll[t] = logf(all.sum) + (all.top - label_logit);
  if (loss_only) return;
  const Gradient gradient(all, label_logit, scale);
  for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N)
    gradient(P::load(x + v), label - v).store(x + v);
}

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  if (T == 0) return;
  visit_width(aligned(a.logits), a.logits.dtype, [&]<class E, int N>() {
    E* const logits = a.logits.as<E>();
    const int64_t stride = a.logits.row_stride();
    float* const nll = a.nll.as<float>();
    const int* const labels = a.labels.as<int>();
    int parts = 1;
    while (parts < kMostParts && int64_t{parts} * kPacks * kThreads * N < V) parts *= 2;
    const int64_t packs = ceil_div(V / N, parts);  // of a part
    const bool resident = N > 1 && packs <= kPacks * kThreads;
    if (!resident) {
      general_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
          logits, stride, nll, labels, V, a.scale, a.loss_only);
    }
    if constexpr (N > 1) {
      if (!resident) return;
      cudaLaunchAttribute cluster{};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(parts);
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(T * parts));
      config.blockDim = dim3(kThreads);
      config.stream = native(stream);
      config.attrs = &cluster;
      config.numAttrs = 1;
      cudaLaunchKernelEx(&config, resident_kernel<E>, logits, stride, nll, labels,
                         static_cast<int>(V), parts, static_cast<int>(packs), a.scale, a.loss_only);
    }
  });
  check_launch("cross_entropy");
}

}  // namespace nereus::ops::cuda
