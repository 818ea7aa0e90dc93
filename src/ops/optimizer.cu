#include <cmath>

#include "ops/cuda.cuh"
#include "ops/optimizer.h"
#include "ops/split_math.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 1024;  // parts of a norm, whatever its length and the device

__device__ double squares(const float4& v) {
  const double x = v.x, y = v.y, z = v.z, w = v.w;
  return (x * x + y * y) + (z * z + w * w);
}

__global__ void __launch_bounds__(kThreads)
    squares_kernel(double* parts, const float* x, int64_t n) {
  const int64_t packs = n / 4, step = int64_t{kBlocks} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  double sum = 0;
  for (; i + 7 * step < packs; i += 8 * step) {
    float4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(reinterpret_cast<const float4*>(x) + i + j * step);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += squares(v[j]);
  }
  for (; i < packs; i += step) sum += squares(reinterpret_cast<const float4*>(x)[i]);
  if (blockIdx.x == 0)
    for (int64_t k = packs * 4 + threadIdx.x; k < n; k += kThreads)
      sum += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// The same for memory that is not aligned to 16 bytes.
__global__ void __launch_bounds__(kThreads)
    plain_squares_kernel(double* parts, const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{kBlocks} * kThreads)
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlocks)
    total_kernel(double* out, const double* parts, bool accumulate) {
  const double sum = block_sum<kBlocks>(parts[threadIdx.x]);
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + sum : sum;
}

__global__ void clip_kernel(float* norm, float* coefficient, int* step_ok, const double* squares,
                            float max_norm) {
  const float n = static_cast<float>(sqrt(*squares));
  *norm = n;
  *coefficient = fminf(1.0f, max_norm / (n + 1e-6f));
  if (!isfinite(n)) *step_ok = 0;
}

struct AdamConstants {
  float weight_m, beta2, weight_v, rate, root_scale, eps, shrink, decay;
  bool decoupled;
};

__device__ void adam_element(float& p, float& m, float& v, float g, const AdamConstants& c) {
  if (c.decoupled) {
    p *= c.shrink;
  } else {
    g += c.decay * p;
  }
  m = m + c.weight_m * (g - m);
  v = c.beta2 * v + c.weight_v * g * g;
  p -= c.rate * m / (sqrtf(v) / c.root_scale + c.eps);
}

// Bytes that nobody reads again, sixteen at a time where there are as many.
template <class M, int N>
__device__ Pack<M, N> load_moments(const M* p) {
  if constexpr (sizeof(M) * N == 16) {
    return Pack<M, N>::load_once(p);
  } else {
    return Pack<M, N>::load(p);
  }
}

// N elements a thread and step. Everything is read once and written once: nothing of it should
// stay in the caches.
template <class M, int N>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(float* param, M* m, M* v, bf16* copy, const float* grad, const float* coefficient,
                const int* step_ok, int64_t n, AdamConstants c) {
  if (*step_ok == 0) return;
  const float scale = *coefficient;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n / N;
       i += int64_t{gridDim.x} * kThreads) {
    auto pp = load_moments<float, N>(param + i * N);
    auto mm = load_moments<M, N>(m + i * N);
    auto vv = load_moments<M, N>(v + i * N);
    const auto gg = load_moments<float, N>(grad + i * N);
    Pack<bf16, N> rounded;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float m1 = static_cast<float>(mm[j]), v1 = magnitude(static_cast<float>(vv[j]));
      adam_element(pp[j], m1, v1, scale * gg[j], c);
      mm[j] = M(m1);
      vv[j] = M(v1);
      rounded[j] = bf16(pp[j]);
    }
    pp.store(param + i * N);
    mm.store(m + i * N);
    vv.store(v + i * N);
    if (copy != nullptr) rounded.store(copy + i * N);
  }
}

// The same with masters in two parts.
template <class M, int N>
__global__ void __launch_bounds__(kThreads)
    split_adam_kernel(int16_t* remainder, M* m, M* v, bf16* copy, const float* grad,
                      const float* coefficient, const int* step_ok, int64_t n, AdamConstants c) {
  if (*step_ok == 0) return;
  const float scale = *coefficient;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n / N;
       i += int64_t{gridDim.x} * kThreads) {
    auto cc = load_moments<bf16, N>(copy + i * N);
    auto rr = load_moments<int16_t, N>(remainder + i * N);
    auto mm = load_moments<M, N>(m + i * N);
    auto vv = load_moments<M, N>(v + i * N);
    const auto gg = load_moments<float, N>(grad + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float v0 = static_cast<float>(vv[j]);
      float p = join({cc[j], rr[j], negative(v0)});
      float m1 = static_cast<float>(mm[j]), v1 = magnitude(v0);
      adam_element(p, m1, v1, scale * gg[j], c);
      const MasterParts parts = split(p);
      cc[j] = parts.copy;
      rr[j] = parts.remainder;
      mm[j] = M(m1);
      vv[j] = M(with_sign(v1, parts.tie_down));
    }
    cc.store(copy + i * N);
    rr.store(remainder + i * N);
    mm.store(m + i * N);
    vv.store(v + i * N);
  }
}

bool fits(const ConstTensorView& v, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(v.data) % bytes == 0;
}

}  // namespace

void sum_squares(Stream& stream, const SumSquares& a) {
  static_assert(kBlocks * sizeof(double) <= Workspace::kLeastBytes);  // so it is not measured
  double* parts = stream.state<Workspace>().take<double>(kBlocks);
  const auto kernel = fits(a.x, 16) ? squares_kernel : plain_squares_kernel;
  kernel<<<kBlocks, kThreads, 0, native(stream)>>>(parts, a.x.as<float>(), a.x.count());
  total_kernel<<<1, kBlocks, 0, native(stream)>>>(a.out.as<double>(), parts, a.accumulate);
  check_launch("sum_squares");
}

void clip_coefficient(Stream& stream, const ClipCoefficient& a) {
  clip_kernel<<<1, 1, 0, native(stream)>>>(a.norm.as<float>(), a.coefficient.as<float>(),
                                           a.step_ok.as<int>(), a.sum_squares.as<double>(),
                                           a.max_norm);
  check_launch("clip_coefficient");
}

void adam(Stream& stream, const Adam& a) {
  const int64_t n = a.grad.count();
  if (n == 0) return;
  const auto step = static_cast<double>(a.step);
  const AdamConstants c{.weight_m = static_cast<float>(1 - a.beta1),
                        .beta2 = static_cast<float>(a.beta2),
                        .weight_v = static_cast<float>(1 - a.beta2),
                        .rate = static_cast<float>(a.lr / (1 - std::pow(a.beta1, step))),
                        .root_scale = static_cast<float>(std::sqrt(1 - std::pow(a.beta2, step))),
                        .eps = static_cast<float>(a.eps),
                        .shrink = static_cast<float>(1 - a.lr * a.weight_decay),
                        .decay = static_cast<float>(a.weight_decay),
                        .decoupled = a.decoupled};
  const auto moments = static_cast<uintptr_t>(4 * size_of(a.m.dtype));
  const bool packs = n % 4 == 0 && fits(a.param, 16) && fits(a.m, moments) && fits(a.v, moments) &&
                     fits(a.grad, 16) && fits(a.copy, 8) && fits(a.remainder, 8);
  const auto run = [&]<class M>(auto kernel, auto* param, int64_t elements) {
    const int64_t blocks =
        std::min<int64_t>(ceil_div(n / elements, kThreads), int64_t{stream.sm_count()} * 32);
    kernel<<<static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(
        param, a.m.as<M>(), a.v.as<M>(), a.copy.as<bf16>(), a.grad.as<float>(),
        a.coefficient.as<float>(), a.step_ok.as<int>(), n, c);
  };
  visit_float(a.m.dtype, [&]<class M>() {
    if (a.remainder.data != nullptr) {
      auto* const remainder = a.remainder.as<int16_t>();
      packs ? run.template operator()<M>(split_adam_kernel<M, 4>, remainder, 4)
            : run.template operator()<M>(split_adam_kernel<M, 1>, remainder, 1);
    } else {
      auto* const param = a.param.as<float>();
      packs ? run.template operator()<M>(adam_kernel<M, 4>, param, 4)
            : run.template operator()<M>(adam_kernel<M, 1>, param, 1);
    }
  });
  check_launch("adam");
}

}  // namespace nereus::ops::cuda
