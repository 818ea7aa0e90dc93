// The general path of attention: f32 or bf16, any width up to 256, any mask; a warp a row, plain
// f32 arithmetic. And the choice among the others, see attention.h.
#include "ops/attention.h"
#include "ops/attention_cudnn.h"
#include "ops/attention_flash.h"
#include "ops/attention_hopper.h"
#include "ops/cuda.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kWarps = 8;                 // of a thread block: neighbours of a head share its rows
constexpr int kAhead = 4;                 // keys or queries that a warp works on at a time
constexpr int kLane = kMostGpuHead / 32;  // elements of a row that a lane holds

// A row of a [T, H, D] tensor, spread over the lanes of a warp: lane l has d = l, l + 32, ...
template <class E>
struct Rows {
  E* data;
  int64_t token, head;
  int width;

  __device__ E* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
  __device__ void read(float (&x)[kLane], int64_t t, int64_t h, int lane) const {
    const E* p = at(t, h);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int d = lane + 32 * i;
      x[i] = d < width ? static_cast<float>(p[d]) : 0.0f;
    }
  }
  __device__ void write(const float (&x)[kLane], int64_t t, int64_t h, int lane) const {
    E* p = at(t, h);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int d = lane + 32 * i;
      if (d < width) p[d] = E(x[i]);
    }
  }
};

template <class E, class View>
auto rows_of(const View& v) {
  using Element = std::remove_pointer_t<decltype(v.template as<E>())>;
  return Rows<Element>{v.template as<E>(), v.stride[0], v.stride[1], static_cast<int>(v.dim(2))};
}

__device__ float dot(const float (&a)[kLane], const float (&b)[kLane]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum = fmaf(a[i], b[i], sum);
  return warp_sum(sum);
}

// The (token, head) of this warp; token >= T: none.
struct Place {
  int64_t t, h;
  int lane;
};
__device__ Place place() {
  return {int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, blockIdx.y,
          static_cast<int>(threadIdx.x % 32)};
}

// Where the row's log-sum-exp lies in [B, H, S].
__device__ int64_t stat(int64_t t, int64_t h, int64_t H, int64_t S) {
  return (t / S * H + h) * S + t % S;
}

// Rows of S queries and Sk keys: the key of a row's first query is its key `chunk_start`.
struct Layout {
  int64_t S, Sk, chunk_start;
  __device__ int64_t key_of(int64_t t) const { return t / S * Sk + chunk_start + t % S; }
};

template <class E>
__global__ void __launch_bounds__(kWarps * 32)
    forward_kernel(Rows<E> o, float* lse, Rows<const E> q, Rows<const E> k, Rows<const E> v,
                   const int* first_key, int64_t T, int64_t H, Layout rows, float scale) {
  const auto [t, h, lane] = place();
  if (t >= T) return;
  float query[kLane], key[kAhead][kLane], value[kAhead][kLane], score[kAhead], sum[kLane] = {};
  q.read(query, t, h, lane);
  float top = -INFINITY, norm = 0;
  const int64_t last = rows.key_of(t);
  for (int64_t j = first_key[t]; j <= last; j += kAhead) {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      k.read(key[n], min(j + n, last), h, lane);
      v.read(value[n], min(j + n, last), h, lane);
    }
    float now = top;
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      score[n] = dot(query, key[n]) * scale;
      if (j + n > last) score[n] = -INFINITY;
      now = fmaxf(now, score[n]);
    }
    const float keep = expf(top - now);
    norm *= keep;
#pragma unroll
    for (int i = 0; i < kLane; ++i) sum[i] *= keep;
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const float p = expf(score[n] - now);
      norm += p;
#pragma unroll
      for (int i = 0; i < kLane; ++i) sum[i] = fmaf(p, value[n][i], sum[i]);
    }
    top = now;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum[i] /= norm;
  o.write(sum, t, h, lane);
  if (lane == 0) lse[stat(t, h, H, rows.S)] = top + logf(norm);
}

template <class E>
__global__ void __launch_bounds__(kWarps * 32)
    delta_kernel(float* delta, Rows<const E> dout, Rows<const E> o, int64_t T, int64_t H,
                 int64_t S) {
  const auto [t, h, lane] = place();
  if (t >= T) return;
  float a[kLane], b[kLane];
  dout.read(a, t, h, lane);
  o.read(b, t, h, lane);
  const float sum = dot(a, b);
  if (lane == 0) delta[stat(t, h, H, S)] = sum;
}

template <class E>
struct BackwardInputs {
  Rows<const E> dout, q, k, v;
  const float* lse;
  const float* delta;
  const int* first_key;
  int64_t T, H;
  Layout rows;
  float scale;
};

// A warp a query: dq.
template <class E>
__global__ void __launch_bounds__(kWarps * 32) dq_kernel(Rows<E> dq, BackwardInputs<E> in) {
  const auto [t, h, lane] = place();
  if (t >= in.T) return;
  float query[kLane], gradient[kLane], key[kAhead][kLane], value[kAhead][kLane], sum[kLane] = {};
  in.q.read(query, t, h, lane);
  in.dout.read(gradient, t, h, lane);
  const int64_t place_of_row = stat(t, h, in.H, in.rows.S), last = in.rows.key_of(t);
  const float lse = in.lse[place_of_row], delta = in.delta[place_of_row];
  for (int64_t j = in.first_key[t]; j <= last; j += kAhead) {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      in.k.read(key[n], min(j + n, last), h, lane);
      in.v.read(value[n], min(j + n, last), h, lane);
    }
    float ds[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const float p = expf(in.scale * dot(query, key[n]) - lse);
      ds[n] = p * (dot(gradient, value[n]) - delta);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (j + n > last) break;
#pragma unroll
      for (int i = 0; i < kLane; ++i) sum[i] = fmaf(ds[n], key[n][i], sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum[i] *= in.scale;
  dq.write(sum, t, h, lane);
}

// dk and dv: one warp per key, over the queries of its sequence that see the key.
template <class E>
__global__ void __launch_bounds__(kWarps * 32)
    dkv_kernel(Rows<E> dk, Rows<E> dv, BackwardInputs<E> in, int64_t keys, bool accumulate) {
  const auto [j, h, lane] = place();
  if (j >= keys) return;
  float query[kAhead][kLane], gradient[kAhead][kLane], key[kLane], value[kLane];
  float dkey[kLane] = {}, dvalue[kLane] = {};
  in.k.read(key, j, h, lane);
  in.v.read(value, j, h, lane);
  const int64_t row = j / in.rows.Sk, end = (row + 1) * in.rows.S;
  const int64_t before = j % in.rows.Sk - in.rows.chunk_start;  // queries that do not see the key
  for (int64_t t = row * in.rows.S + (before > 0 ? before : 0); t < end && in.first_key[t] <= j;
       t += kAhead) {
    float p[kAhead], ds[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      in.q.read(query[n], min(t + n, end - 1), h, lane);
      in.dout.read(gradient[n], min(t + n, end - 1), h, lane);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int64_t at = min(t + n, end - 1), s = stat(at, h, in.H, in.rows.S);
      const bool sees = t + n < end && in.first_key[at] <= j;
      p[n] = sees ? expf(in.scale * dot(query[n], key) - in.lse[s]) : 0.0f;
      ds[n] = sees ? p[n] * (dot(gradient[n], value) - in.delta[s]) : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        dkey[i] = fmaf(ds[n], query[n][i], dkey[i]);
        dvalue[i] = fmaf(p[n], gradient[n][i], dvalue[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) dkey[i] *= in.scale;
  if (accumulate) {
    dk.read(key, j, h, lane);
    dv.read(value, j, h, lane);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      dkey[i] += key[i];
      dvalue[i] += value[i];
    }
  }
  dk.write(dkey, j, h, lane);
  dv.write(dvalue, j, h, lane);
}

dim3 grid(int64_t T, int64_t H) {
  return dim3(static_cast<unsigned>(ceil_div(T, kWarps)), static_cast<unsigned>(H));
}

}  // namespace

void plan(Stream& stream, const AttentionForward& a) {
  if (!hopper_takes(stream, a) && cudnn_takes(a)) plan_cudnn(stream, a);
}
void plan(Stream& stream, const AttentionBackward& a) {
  if (!hopper_takes(stream, a) && cudnn_takes(a)) plan_cudnn(stream, a);
}

int64_t attention_backward_workspace(Stream& stream, const AttentionBackward& a) {
  if (hopper_takes(stream, a)) return hopper_workspace(a);
  return cudnn_takes(a) ? cudnn_workspace(stream, a) : 0;
}

void attention_forward(Stream& stream, const AttentionForward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1);
  if (T == 0 || H == 0) return;
  if (hopper_takes(stream, a)) return hopper_forward(stream, a);
  if (cudnn_takes(a) && run_cudnn(stream, a)) return;
  if (flash_takes(a)) return flash_forward(stream, a);
  check_head_of_gpu(a.q.dim(2), a.v.dim(2));
  visit_float(a.q.dtype, [&]<class E>() {
    forward_kernel<E><<<grid(T, H), kWarps * 32, 0, native(stream)>>>(
        rows_of<E>(a.o), a.lse.as<float>(), rows_of<E>(a.q), rows_of<E>(a.k), rows_of<E>(a.v),
        a.first_key.as<int>(), T, H, Layout{a.sequence, keys_of_row(a), a.chunk_start}, a.scale);
  });
  check_launch("attention_forward");
}

void attention_backward(Stream& stream, const AttentionBackward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1);
  if (T == 0 || H == 0) return;
  if (hopper_takes(stream, a)) return hopper_backward(stream, a);
  if (cudnn_takes(a) && run_cudnn(stream, a)) return;
  if (flash_takes(a)) return flash_backward(stream, a);
  check_head_of_gpu(a.q.dim(2), a.v.dim(2));
  visit_float(a.q.dtype, [&]<class E>() {
    const dim3 blocks = grid(T, H);
    delta_kernel<E><<<blocks, kWarps * 32, 0, native(stream)>>>(
        a.delta.as<float>(), rows_of<E>(a.dout), rows_of<E>(a.o), T, H, a.sequence);
    const BackwardInputs<E> in{rows_of<E>(a.dout),
                               rows_of<E>(a.q),
                               rows_of<E>(a.k),
                               rows_of<E>(a.v),
                               a.lse.as<float>(),
                               a.delta.as<float>(),
                               a.first_key.as<int>(),
                               T,
                               H,
                               {a.sequence, keys_of_row(a), a.chunk_start},
                               a.scale};
    dq_kernel<E><<<blocks, kWarps * 32, 0, native(stream)>>>(rows_of<E>(a.dq), in);
    dkv_kernel<E><<<grid(a.k.dim(0), H), kWarps * 32, 0, native(stream)>>>(
        rows_of<E>(a.dk), rows_of<E>(a.dv), in, a.k.dim(0), a.accumulate);
  });
  check_launch("attention_backward");
}

}  // namespace nereus::ops::cuda
