#include "ops/cuda.cuh"
#include "ops/mla.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostRotary = 2048;  // R: what shared memory holds of it

// A [T, H, D] tensor's heads.
template <class E>
struct Heads {
  E* data;
  int64_t token, head;
  __device__ E* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};
template <class E, class View>
auto heads_of(const View& v) {
  using Element = std::remove_pointer_t<decltype(v.template as<E>())>;
  return Heads<Element>{v.template as<E>(), v.stride[0], v.stride[1]};
}

// The pair (x0, x1) turned by an angle; sign -1 turns back. Products and sums round one by one, as
// on the CPU.
__device__ void turn(float& x0, float& x1, float c, float s, float sign) {
  const float signed_s = sign * s;
  const float y0 = __fsub_rn(__fmul_rn(x0, c), __fmul_rn(x1, signed_s));
  x1 = __fadd_rn(__fmul_rn(x0, signed_s), __fmul_rn(x1, c));
  x0 = y0;
}

// A pack of pairs, of which `first` is the first.
template <class P>
__device__ void turn_pack(P& pack, const float* cos, const float* sin, int first, float sign) {
#pragma unroll
  for (int i = 0; i < P::kSize / 2; ++i) {
    using E = std::remove_cvref_t<decltype(pack[0])>;
    float x0 = static_cast<float>(pack[2 * i]), x1 = static_cast<float>(pack[2 * i + 1]);
    turn(x0, x1, cos[first + i], sin[first + i], sign);
    pack[2 * i] = E(x0);
    pack[2 * i + 1] = E(x1);
  }
}

// Pairs [first, first + kPairs) of a rotary part at p, in place; one pack where there are several.
template <class E, int kPairs>
__device__ void turn_pairs(E* p, const float* cos, const float* sin, int first, float sign) {
  if constexpr (kPairs == 1) {
    float x0 = static_cast<float>(p[2 * first]), x1 = static_cast<float>(p[2 * first + 1]);
    turn(x0, x1, cos[first], sin[first], sign);
    p[2 * first] = E(x0);
    p[2 * first + 1] = E(x1);
  } else {
    auto pack = Pack<E, 2 * kPairs>::load(p + 2 * first);
    turn_pack(pack, cos, sin, first, sign);
    pack.store(p + 2 * first);
  }
}

template <class E>
struct Assemble {
  Heads<E> q, k;
  Heads<const E> k_nope;
  const E* k_pe;
  int64_t k_pe_stride;
  const float *cos, *sin;
  const int* positions;
  int H, N, R;  // heads, width without position, rotary width
};

// f(column, head, heads) for this thread's columns of a row of them, and the heads from `head` on,
// kAtOnce of them `heads` apart: a thread keeps to its column, and asks for several packs before it
// uses one.
constexpr int kAtOnce = 4;
template <class F>
__device__ void for_columns(int columns, int H, F&& f) {
  const int groups = std::max(1, kThreads / std::max(columns, 1));
  for (int i = static_cast<int>(threadIdx.x); i < columns * groups; i += kThreads)
    for (int h = i / columns; h < H; h += groups * kAtOnce) f(i % columns, h, groups);
}

// One block per token. W elements move together; the key's rotary part is rotated once and written
// to every head.
template <class E, int W>
__global__ void __launch_bounds__(kThreads, 3) assemble_kernel(Assemble<E> a) {
  constexpr int kPairs = W > 1 ? W / 2 : 1;
  using P = Pack<E, W>;
  __shared__ alignas(16) E k_pe[kMostRotary];
  __shared__ float cos[kMostRotary / 2], sin[kMostRotary / 2];
  const int64_t t = blockIdx.x;
  const int half = a.R / 2;
  const int64_t table = int64_t{a.positions[t]} * half;
  for (int i = threadIdx.x; i < half; i += kThreads) {
    cos[i] = a.cos[table + i];
    sin[i] = a.sin[table + i];
    const E* in = a.k_pe + t * a.k_pe_stride + 2 * i;
    float x0 = static_cast<float>(in[0]), x1 = static_cast<float>(in[1]);
    turn(x0, x1, cos[i], sin[i], 1);
    k_pe[2 * i] = E(x0);
    k_pe[2 * i + 1] = E(x1);
  }
  for_columns(a.N / W, a.H, [&](int column, int h, int groups) {
    P packs[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
      if (h + n * groups < a.H) packs[n] = P::load(a.k_nope.at(t, h + n * groups) + column * W);
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
      if (h + n * groups < a.H) packs[n].store(a.k.at(t, h + n * groups) + column * W);
  });
  __syncthreads();
  for_columns(a.R / W, a.H, [&](int column, int h, int groups) {
    const P pack = P::load(k_pe + column * W);
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
      if (h + n * groups < a.H) pack.store(a.k.at(t, h + n * groups) + a.N + column * W);
  });
  const int steps = half / kPairs;  // of a head's rotary part
  if (a.q.data == nullptr) return;
  for_columns(steps, a.H, [&](int step, int h, int groups) {
    if constexpr (W > 1) {
      P packs[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
        if (h + n * groups < a.H) packs[n] = P::load(a.q.at(t, h + n * groups) + a.N + step * W);
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        if (h + n * groups >= a.H) continue;
        turn_pack(packs[n], cos, sin, step * kPairs, 1);
        packs[n].store(a.q.at(t, h + n * groups) + a.N + step * W);
      }
    } else {
      for (int n = 0; n < kAtOnce && h + n * groups < a.H; ++n)
        turn_pairs<E, 1>(a.q.at(t, h + n * groups) + a.N, cos, sin, step, 1);
    }
  });
}

template <class E>
struct AssembleBackward {
  Heads<E> dq, dk_nope;
  Heads<const E> dk;
  E* dk_pe;
  int64_t dk_pe_stride;
  const float *cos, *sin;
  const int* positions;
  int H, N, R;
};

// The sum over heads: a thread has W columns of every g-th head, then the g sums of a column are
// added in order.
template <class E, int W>
__global__ void __launch_bounds__(kThreads) assemble_backward_kernel(AssembleBackward<E> a) {
  constexpr int kPairs = W > 1 ? W / 2 : 1;
  __shared__ float cos[kMostRotary / 2], sin[kMostRotary / 2], sums[kThreads * 8];
  const int64_t t = blockIdx.x;
  const int half = a.R / 2;
  const int64_t table = int64_t{a.positions[t]} * half;
  for (int i = threadIdx.x; i < half; i += kThreads) {
    cos[i] = a.cos[table + i];
    sin[i] = a.sin[table + i];
  }
  const int columns = a.R / W;                                     // packs of a rotary part
  const int groups = columns < kThreads ? kThreads / columns : 1;  // threads to a pack
  for (int i = threadIdx.x; i < columns * groups; i += kThreads) {
    const int c = i % columns, g = i / columns;
    float sum[W] = {};
    for (int h = g; h < a.H; h += groups) {
      const auto in = Pack<E, W>::load(a.dk.at(t, h) + a.N + c * W);
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] += static_cast<float>(in[j]);
    }
#pragma unroll
    for (int j = 0; j < W; ++j) sums[g * a.R + c * W + j] = sum[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < half; i += kThreads) {
    float x0 = sums[2 * i], x1 = sums[2 * i + 1];
    for (int g = 1; g < groups; ++g) {
      x0 += sums[g * a.R + 2 * i];
      x1 += sums[g * a.R + 2 * i + 1];
    }
    turn(x0, x1, cos[i], sin[i], -1);
    E* out = a.dk_pe + t * a.dk_pe_stride + 2 * i;
    out[0] = E(x0);
    out[1] = E(x1);
  }
  const int steps = half / kPairs;
  for (int i = threadIdx.x; i < a.H * steps && a.dq.data != nullptr; i += kThreads)
    turn_pairs<E, kPairs>(a.dq.at(t, i / steps) + a.N, cos, sin, i % steps * kPairs, -1);
  const int nope = a.N / W;
  for (int i = threadIdx.x; i < a.H * nope; i += kThreads) {
    const int h = i / nope, j = i % nope * W;
    Pack<E, W>::load(a.dk.at(t, h) + j).store(a.dk_nope.at(t, h) + j);
  }
}

// A block has a token.
template <class E>
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(Heads<E> x, const float* cos, const float* sin, const int* positions, int H,
                  int half, float sign) {
  const int64_t t = blockIdx.x, table = int64_t{positions[t]} * half;
  for (int i = threadIdx.x; i < H * half; i += kThreads)
    turn_pairs<E, 1>(x.at(t, i / half), cos + table, sin + table, i % half, sign);
}

}  // namespace

void rotate_heads(Stream& stream, const RotateHeads& a) {
  const int64_t T = a.x.dim(0);
  if (T == 0) return;
  visit_float(a.x.dtype, [&]<class E>() {
    rotate_kernel<E><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        heads_of<E>(a.x), a.cos.as<float>(), a.sin.as<float>(), a.positions.as<int>(),
        static_cast<int>(a.x.dim(1)), static_cast<int>(a.x.dim(2) / 2), a.back ? -1.0f : 1.0f);
  });
  check_launch("rotate_heads");
}

void mla_assemble(Stream& stream, const MlaAssemble& a) {
  const int64_t T = a.k.dim(0), R = a.k_pe.dim(1);
  if (T == 0) return;
  const bool packs =
      aligned(a.q) && aligned(a.k) && aligned(a.k_nope) && R * size_of(a.k.dtype) % 16 == 0;
  visit_width(packs, a.k.dtype, [&]<class E, int W>() {
    assemble_kernel<E, W><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        {heads_of<E>(a.q), heads_of<E>(a.k), heads_of<E>(a.k_nope), a.k_pe.as<E>(),
         a.k_pe.row_stride(), a.cos.as<float>(), a.sin.as<float>(), a.positions.as<int>(),
         static_cast<int>(a.k.dim(1)), static_cast<int>(a.k.dim(2) - R), static_cast<int>(R)});
  });
  check_launch("mla_assemble");
}

void mla_assemble_backward(Stream& stream, const MlaAssembleBackward& a) {
  const int64_t T = a.dk.dim(0), R = a.dk_pe.dim(1);
  if (T == 0) return;
  const bool packs =
      aligned(a.dq) && aligned(a.dk) && aligned(a.dk_nope) && R * size_of(a.dk.dtype) % 16 == 0;
  visit_width(packs, a.dk.dtype, [&]<class E, int W>() {
    assemble_backward_kernel<E, W><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        {heads_of<E>(a.dq), heads_of<E>(a.dk_nope), heads_of<E>(a.dk), a.dk_pe.as<E>(),
         a.dk_pe.row_stride(), a.cos.as<float>(), a.sin.as<float>(), a.positions.as<int>(),
         static_cast<int>(a.dk.dim(1)), static_cast<int>(a.dk.dim(2) - R), static_cast<int>(R)});
  });
  check_launch("mla_assemble_backward");
}

}  // namespace nereus::ops::cuda
