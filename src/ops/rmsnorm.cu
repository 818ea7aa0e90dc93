#include "ops/cuda.cuh"
#include "ops/rmsnorm.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

// A row of D elements in packs of N, kPacks of them in the registers of each of kThreads threads.
template <int kThreads, int kPacks, int N>
struct RowPlan {
  static constexpr int threads = kThreads, packs = kPacks, width = N;
};

// f.operator()<E, Plan>() with the smallest plan that holds a row; one whose kPacks is 0 holds none
// and goes over rows in a loop, an element at a time.
template <class F>
void visit_plan(bool wide, DType dtype, int64_t D, F&& f) {
  visit_float(dtype, [&]<class E>() {
    constexpr int N = Pack<E>::kSize;
    const int64_t packs = D / N;
    if (!wide || packs > 4 * 256) {
      f.template operator()<E, RowPlan<256, 0, 1>>();
    } else if (packs <= 64) {
      f.template operator()<E, RowPlan<64, 1, N>>();
    } else if (packs <= 256) {
      f.template operator()<E, RowPlan<256, 1, N>>();
    } else if (packs <= 512) {
      f.template operator()<E, RowPlan<256, 2, N>>();
    } else {
      f.template operator()<E, RowPlan<512, 2, N>>();
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

// rstd and weight times a value, in the order of the two references.
template <class E>
__device__ E normalised(float s, float rstd, float weight, bool round) {
  return round ? E(static_cast<float>(E(s * rstd)) * weight) : E(s * rstd * weight);
}

template <class E, class Plan>
__global__ void __launch_bounds__(Plan::threads)
    forward_kernel(Rows<E> y, float* rstd, Rows<E> sum, Rows<const E> x, Rows<const E> addend,
                   const float* weight, int D, float eps, bool round) {
  using P = Pack<E, Plan::width>;
  const int64_t t = blockIdx.x;
  const E* in = x.row(t);
  const E* more = addend.data != nullptr ? addend.row(t) : nullptr;
  float squares = 0;
  if constexpr (Plan::packs > 0) {
    P s[Plan::packs];
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
      if (d >= D) continue;
      s[i] = P::load(in + d);
      if (more != nullptr) {
        const P other = P::load(more + d);
#pragma unroll
        for (int j = 0; j < Plan::width; ++j)
          s[i][j] = E(static_cast<float>(s[i][j]) + static_cast<float>(other[j]));
        s[i].store(sum.row(t) + d);
      }
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        squares += static_cast<float>(s[i][j]) * static_cast<float>(s[i][j]);
    }
    const float r = 1.0f / sqrtf(block_sum<Plan::threads>(squares) / static_cast<float>(D) + eps);
    if (threadIdx.x == 0) rstd[t] = r;
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
      if (d >= D) continue;
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        s[i][j] = normalised<E>(static_cast<float>(s[i][j]), r, weight[d + j], round);
      s[i].store(y.row(t) + d);
    }
  } else {
    for (int d = threadIdx.x; d < D; d += Plan::threads) {
      float s = static_cast<float>(in[d]);
      if (more != nullptr) {
        const E rounded = E(s + static_cast<float>(more[d]));
        sum.row(t)[d] = rounded;
        s = static_cast<float>(rounded);
      }
      squares += s * s;
    }
    const float r = 1.0f / sqrtf(block_sum<Plan::threads>(squares) / static_cast<float>(D) + eps);
    if (threadIdx.x == 0) rstd[t] = r;
    const E* s = more != nullptr ? sum.row(t) : in;  // each thread reads what it wrote itself
    for (int d = threadIdx.x; d < D; d += Plan::threads)
      y.row(t)[d] = normalised<E>(static_cast<float>(s[d]), r, weight[d], round);
  }
}

template <class E>
struct Backward {
  Rows<E> dx;
  Rows<const E> dy, x, residual;
  const float *weight, *rstd;
  float* parts;  // [blocks, D] sums of dy * n over the rows of a block
  int64_t T;
  int D;
};

// A block goes over rows blockIdx.x, + gridDim.x, ... and keeps its part of dweight in registers
// (or, when a row does not fit there, in its row of `parts`).
template <class E, class Plan>
__global__ void __launch_bounds__(Plan::threads) backward_kernel(Backward<E> a) {
  using P = Pack<E, Plan::width>;
  float* part = a.parts + int64_t{blockIdx.x} * a.D;
  const auto mean = [&](float dot) {
    return block_sum<Plan::threads>(dot) / static_cast<float>(a.D);
  };
  if constexpr (Plan::packs > 0) {
    float dweight[Plan::packs][Plan::width] = {};
    for (int64_t t = blockIdx.x; t < a.T; t += gridDim.x) {
      const float r = a.rstd[t];
      P x[Plan::packs], dy[Plan::packs];
      float dot = 0;
#pragma unroll
      for (int i = 0; i < Plan::packs; ++i) {
        const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
        if (d >= a.D) continue;
        x[i] = P::load(a.x.row(t) + d);
        dy[i] = P::load(a.dy.row(t) + d);
      }
#pragma unroll
      for (int i = 0; i < Plan::packs; ++i) {
        const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
        if (d >= a.D) continue;
#pragma unroll
        for (int j = 0; j < Plan::width; ++j) {
          const float n = static_cast<float>(x[i][j]) * r, g = static_cast<float>(dy[i][j]);
          dweight[i][j] += g * n;
          dot += g * a.weight[d + j] * n;
        }
      }
      const float m = mean(dot);
#pragma unroll
      for (int i = 0; i < Plan::packs; ++i) {
        const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
        if (d >= a.D) continue;
        P residual;
        if (a.residual.data != nullptr) residual = P::load(a.residual.row(t) + d);
        P out;
#pragma unroll
        for (int j = 0; j < Plan::width; ++j) {
          const float n = static_cast<float>(x[i][j]) * r, g = static_cast<float>(dy[i][j]);
          const float dx = r * (g * a.weight[d + j] - n * m);
          out[j] = E(a.residual.data != nullptr ? dx + static_cast<float>(residual[j]) : dx);
        }
        out.store(a.dx.row(t) + d);
      }
    }
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = static_cast<int>(threadIdx.x + i * Plan::threads) * Plan::width;
      if (d >= a.D) continue;
#pragma unroll
      for (int j = 0; j < Plan::width; ++j) part[d + j] = dweight[i][j];
    }
  } else {
    for (int d = threadIdx.x; d < a.D; d += Plan::threads) part[d] = 0;
    for (int64_t t = blockIdx.x; t < a.T; t += gridDim.x) {
      const float r = a.rstd[t];
      const E *x = a.x.row(t), *dy = a.dy.row(t);
      float dot = 0;
      for (int d = threadIdx.x; d < a.D; d += Plan::threads) {
        const float n = static_cast<float>(x[d]) * r, g = static_cast<float>(dy[d]);
        part[d] += g * n;
        dot += g * a.weight[d] * n;
      }
      const float m = mean(dot);
      for (int d = threadIdx.x; d < a.D; d += Plan::threads) {
        const float n = static_cast<float>(x[d]) * r;
        float dx = r * (static_cast<float>(dy[d]) * a.weight[d] - n * m);
        if (a.residual.data != nullptr) dx += static_cast<float>(a.residual.row(t)[d]);
        a.dx.row(t)[d] = E(dx);
      }
    }
  }
}

// Column sums of parts, in order of block: 32 columns a thread block, 8 threads to a column.
__global__ void __launch_bounds__(256)
    dweight_kernel(float* dweight, const float* parts, int blocks, int D, bool accumulate) {
  __shared__ float sums[8][33];
  const int column = static_cast<int>(blockIdx.x * 32 + threadIdx.x % 32);
  const int slice = static_cast<int>(threadIdx.x / 32);
  float sum = 0;
  if (column < D)
    for (int b = slice; b < blocks; b += 8) sum += parts[int64_t{b} * D + column];
  sums[slice][threadIdx.x % 32] = sum;
  __syncthreads();
  if (slice != 0 || column >= D) return;
  for (int s = 1; s < 8; ++s) sum += sums[s][threadIdx.x % 32];
  dweight[column] = accumulate ? dweight[column] + sum : sum;
}

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (T == 0) return;
  const bool wide = aligned(a.y) && aligned(a.x) && aligned(a.addend) && aligned(a.sum);
  visit_plan(wide, a.x.dtype, D, [&]<class E, class Plan>() {
    forward_kernel<E, Plan><<<static_cast<unsigned>(T), Plan::threads, 0, native(stream)>>>(
        rows_of<E>(a.y), a.rstd.as<float>(), rows_of<E>(a.sum), rows_of<E>(a.x),
        rows_of<E>(a.addend), a.weight.as<float>(), static_cast<int>(D), a.eps, a.round_normalized);
  });
  check_launch("rmsnorm_forward");
}

void rmsnorm_backward(Stream& stream, const RmsNormBackward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (D == 0) return;
  const bool wide = aligned(a.dx) && aligned(a.dy) && aligned(a.x) && aligned(a.residual);
  visit_plan(wide, a.x.dtype, D, [&]<class E, class Plan>() {
    const int64_t resident = Plan::threads == 64 ? 16 : Plan::packs == 1 ? 4 : 2;
    const int64_t blocks = std::clamp<int64_t>(T, 1, int64_t{stream.processors()} * resident);
    float* parts = stream.state<Workspace>().take<float>(blocks * D);
    const Backward<E> arguments{.dx = rows_of<E>(a.dx),
                                .dy = rows_of<E>(a.dy),
                                .x = rows_of<E>(a.x),
                                .residual = rows_of<E>(a.residual),
                                .weight = a.weight.as<float>(),
                                .rstd = a.rstd.as<float>(),
                                .parts = parts,
                                .T = T,
                                .D = static_cast<int>(D)};
    backward_kernel<E, Plan>
        <<<static_cast<unsigned>(blocks), Plan::threads, 0, native(stream)>>>(arguments);
    dweight_kernel<<<static_cast<unsigned>(ceil_div(D, 32)), 256, 0, native(stream)>>>(
        a.dweight.as<float>(), parts, static_cast<int>(blocks), static_cast<int>(D), a.accumulate);
  });
  check_launch("rmsnorm_backward");
}

}  // namespace nereus::ops::cuda
