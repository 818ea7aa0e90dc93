#include "ops/cuda.cuh"
#include "ops/elementwise.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// Blocks for n packs, each thread taking several: enough to fill the device, no more.
unsigned grid(const Stream& stream, int64_t packs) {
  return static_cast<unsigned>(
      std::clamp<int64_t>(ceil_div(packs, kThreads), 1, int64_t{stream.sm_count()} * 32));
}

// f(i) for every i in [0, n), spread over the grid.
template <class F>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, F f) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    f(i);
}

template <class F>
void for_each(Stream& stream, const char* op, int64_t n, F f) {
  if (n == 0) return;
  for_each_kernel<<<grid(stream, n), kThreads, 0, native(stream)>>>(n, f);
  check_launch(op);
}

template <class E>
struct FillElement {
  E* out;
  E value;
  __device__ void operator()(int64_t i) const { out[i] = value; }
};

template <class E>
void fill_with(Stream& stream, const Fill& a, E value) {
  for_each(stream, "fill", a.out.count(), FillElement<E>{a.out.as<E>(), value});
}

template <class To, class From, int N>
struct CastPack {
  To* out;
  const From* x;
  __device__ void operator()(int64_t i) const {
    const auto from = Pack<From, N>::load(x + i * N);
    Pack<To, N> to;
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = To(static_cast<float>(from[j]));
    to.store(out + i * N);
  }
};

template <class E, int N>
struct AddPack {
  E* out;
  const E *left, *right;
  __device__ void operator()(int64_t i) const {
    const auto x = Pack<E, N>::load(left + i * N), y = Pack<E, N>::load(right + i * N);
    Pack<E, N> sum;
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] = E(static_cast<float>(x[j]) + static_cast<float>(y[j]));
    sum.store(out + i * N);
  }
};

// f<N>() with N elements a step: 8 when all three are fit for it, else 1.
template <class F>
void visit_steps(bool wide, F&& f) {
  if (wide) {
    f.template operator()<8>();
  } else {
    f.template operator()<1>();
  }
}

bool fit(const ConstTensorView& v) {
  return reinterpret_cast<uintptr_t>(v.data) % (8 * static_cast<uintptr_t>(size_of(v.dtype))) ==
             0 &&
         v.count() % 8 == 0;
}

// One block: the sums are of vectors of a few thousand numbers.
__global__ void __launch_bounds__(1024)
    sum_kernel(float* out, const float* x, int64_t n, float scale, bool accumulate) {
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += 1024) sum += x[i];
  sum = scale * block_sum<1024>(sum);
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + sum : sum;
}

}  // namespace

void fill(Stream& stream, const Fill& a) {
  if (a.value == 0) {  // the same bits in every type
    if (a.out.bytes() > 0)
      cudaMemsetAsync(a.out.data, 0, static_cast<size_t>(a.out.bytes()), native(stream));
    return check_launch("fill");
  }
  switch (a.out.dtype) {
    case DType::f32:
      return fill_with(stream, a, static_cast<float>(a.value));
    case DType::bf16:
      return fill_with(stream, a, bf16(static_cast<float>(a.value)));
    case DType::i32:
      return fill_with(stream, a, static_cast<int32_t>(a.value));
    default:
      return fill_with(stream, a, static_cast<int64_t>(a.value));
  }
}

void cast(Stream& stream, const Cast& a) {
  visit_float(a.out.dtype, [&]<class To>() {
    visit_float(a.x.dtype, [&]<class From>() {
      visit_steps(fit(a.out) && fit(a.x), [&]<int N>() {
        for_each(stream, "cast", a.x.count() / N,
                 CastPack<To, From, N>{a.out.as<To>(), a.x.as<From>()});
      });
    });
  });
}

void add(Stream& stream, const Add& a) {
  visit_float(a.out.dtype, [&]<class E>() {
    visit_steps(fit(a.out) && fit(a.a) && fit(a.b), [&]<int N>() {
      for_each(stream, "add", a.out.count() / N,
               AddPack<E, N>{a.out.as<E>(), a.a.as<E>(), a.b.as<E>()});
    });
  });
}

void sum(Stream& stream, const Sum& a) {
  sum_kernel<<<1, 1024, 0, native(stream)>>>(a.out.as<float>(), a.x.as<float>(), a.x.count(),
                                             a.scale, a.accumulate);
  check_launch("sum");
}

}  // namespace nereus::ops::cuda
