#include "ops/cross_entropy.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 512;

// The largest logit of what a thread, or a block, has seen, and the sum of exp(x - top).
struct Softmax {
  float top = -INFINITY, sum = 0;

  __device__ void add(float x) {
    if (x <= top) {
      sum += __expf(x - top);
    } else {
      sum = sum * __expf(top - x) + 1.0f;
      top = x;
    }
  }
};

// Over the block: the top, then the sum scaled to it.
__device__ Softmax block_softmax(Softmax s) {
  const float top = block_max<kThreads>(s.top);
  const float mine = s.top == -INFINITY ? 0.0f : s.sum * __expf(s.top - top);
  return {top, block_sum<kThreads>(mine)};
}

// A block has a row. With kPacks > 0 the row is in registers; else it is read twice.
template <class E, int N, int kPacks>
__global__ void __launch_bounds__(kThreads)
    row_kernel(E* logits, int64_t stride, float* nll, const int* labels, int64_t V, float scale,
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
  const float at_label = static_cast<float>(x[label]);
  Softmax mine;
  P row[kPacks > 0 ? kPacks : 1];
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int64_t v = (threadIdx.x + i * kThreads) * N;
      if (v >= V) continue;
      row[i] = P::load(x + v);
#pragma unroll
      for (int j = 0; j < N; ++j) mine.top = fmaxf(mine.top, static_cast<float>(row[i][j]));
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if ((threadIdx.x + i * kThreads) * N >= V) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) mine.sum += __expf(static_cast<float>(row[i][j]) - mine.top);
    }
  } else {
    for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) {
      const P pack = P::load(x + v);
#pragma unroll
      for (int j = 0; j < N; ++j) mine.add(static_cast<float>(pack[j]));
    }
  }
  const Softmax all = block_softmax(mine);  // all have read x[label] by now
  if (threadIdx.x == 0) nll[t] = logf(all.sum) + (all.top - at_label);
  if (loss_only) return;
  const float factor = scale / all.sum;
  const auto finish = [&](P pack, int64_t v) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float p = __expf(static_cast<float>(pack[j]) - all.top);
      pack[j] = v + j == label ? E(scale * (p / all.sum - 1.0f)) : E(p * factor);
    }
    pack.store(x + v);
  };
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int64_t v = (threadIdx.x + i * kThreads) * N;
      if (v < V) finish(row[i], v);
    }
  } else {
    for (int64_t v = threadIdx.x * N; v < V; v += kThreads * N) finish(P::load(x + v), v);
  }
}

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& a) {
  const int64_t T = a.logits.dim(0), V = a.logits.dim(1);
  if (T == 0) return;
  visit_width(aligned(a.logits), a.logits.dtype, [&]<class E, int N>() {
    const auto run = [&](auto kernel) {
      kernel<<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
          a.logits.as<E>(), a.logits.row_stride(), a.nll.as<float>(), a.labels.as<int>(), V,
          a.scale, a.loss_only);
    };
    if (N > 1 && V <= 4 * kThreads * N) {
      run(row_kernel<E, N, 4>);
    } else {
      run(row_kernel<E, N, 0>);
    }
  });
  check_launch("cross_entropy");
}

}  // namespace nereus::ops::cuda
