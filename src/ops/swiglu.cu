#include "ops/cuda.cuh"
#include "ops/swiglu.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float z) { return 1.0f / (1.0f + __expf(-z)); }

// A thread takes one Pack of a row at a time; blocks go over the (row, chunk) pairs. Rows at and
// after *rows are left alone.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(E* y, int64_t y_stride, const E* gate_up, int64_t stride, const float* weight,
                   const int* rows, int64_t T, int64_t F) {
  using P = Pack<E, N>;
  const int64_t used = rows != nullptr ? min(static_cast<int64_t>(*rows), T) : T;
  const int64_t packs = F / N;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < used * packs;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t t = i / packs, f = i % packs * N;
    const P g = P::load(gate_up + t * stride + f), u = P::load(gate_up + t * stride + F + f);
    const float w = weight != nullptr ? weight[t] : 1.0f;
    P out;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float z = static_cast<float>(g[j]);
      out[j] = E(w * (z * sigmoid(z) * static_cast<float>(u[j])));
    }
    out.store(y + t * y_stride + f);
  }
}

// One block a row, since the routing weight's gradient is a sum over it.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(E* dgate_up, int64_t out_stride, float* drow_weight, const E* dy,
                    int64_t dy_stride, const E* gate_up, int64_t stride, const float* weight,
                    const int* rows, int64_t T, int64_t F) {
  using P = Pack<E, N>;
  const int64_t used = rows != nullptr ? min(static_cast<int64_t>(*rows), T) : T;
  for (int64_t t = blockIdx.x; t < used; t += gridDim.x) {
    const float w = weight != nullptr ? weight[t] : 1.0f;
    float dot = 0;
    for (int64_t f = threadIdx.x * N; f < F; f += kThreads * N) {
      const P g = P::load(gate_up + t * stride + f), u = P::load(gate_up + t * stride + F + f),
              d = P::load(dy + t * dy_stride + f);
      P dgate, dup;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float z = static_cast<float>(g[j]), up = static_cast<float>(u[j]),
                    dv = static_cast<float>(d[j]), s = sigmoid(z), silu = z * s;
        dot += dv * (silu * up);
        dup[j] = E(w * dv * silu);
        dgate[j] = E(w * dv * up * (s + silu * (1.0f - s)));
      }
      dgate.store(dgate_up + t * out_stride + f);
      dup.store(dgate_up + t * out_stride + F + f);
    }
    if (drow_weight != nullptr) {
      dot = block_sum<kThreads>(dot);
      if (threadIdx.x == 0) drow_weight[t] = dot;
    }
  }
}

}  // namespace

void swiglu_forward(Stream& stream, const SwigluForward& a) {
  const int64_t T = a.y.dim(0), F = a.y.dim(1);
  if (T == 0) return;
  visit_width(aligned(a.y) && aligned(a.gate_up), a.y.dtype, [&]<class E, int N>() {
    const int64_t blocks =
        std::min<int64_t>(ceil_div(T * F / N, kThreads), int64_t{stream.sm_count()} * 16);
    forward_kernel<E, N><<<static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(
        a.y.as<E>(), a.y.row_stride(), a.gate_up.as<E>(), a.gate_up.row_stride(),
        a.row_weight.as<float>(), a.rows.as<int>(), T, F);
  });
  check_launch("swiglu_forward");
}

void swiglu_backward(Stream& stream, const SwigluBackward& a) {
  const int64_t T = a.dy.dim(0), F = a.dy.dim(1);
  if (T == 0) return;
  const bool packs = aligned(a.dy) && aligned(a.gate_up) && aligned(a.dgate_up);
  visit_width(packs, a.dy.dtype, [&]<class E, int N>() {
    const int64_t blocks = std::min<int64_t>(T, int64_t{stream.sm_count()} * 8);
    backward_kernel<E, N><<<static_cast<unsigned>(blocks), kThreads, 0, native(stream)>>>(
        a.dgate_up.as<E>(), a.dgate_up.row_stride(), a.drow_weight.as<float>(), a.dy.as<E>(),
        a.dy.row_stride(), a.gate_up.as<E>(), a.gate_up.row_stride(), a.row_weight.as<float>(),
        a.rows.as<int>(), T, F);
  });
  check_launch("swiglu_backward");
}

}  // namespace nereus::ops::cuda
