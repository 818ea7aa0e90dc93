#include "ops/cuda.cuh"
#include "ops/peer_rows.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// One block; a thread has an expert, or several.
__global__ void __launch_bounds__(kThreads)
    first_rows_kernel(int* first_row, int* local_offsets, unsigned long long* wanted,
                      const int* offsets, int P, int E, int rank, int64_t rows) {
  extern __shared__ int
      before[];  // [P * E]: rows of an expert, then of those before it on its rank
  const int all = P * E;
  const auto count = [&](int sender, int e) {
    const int* at = offsets + int64_t{sender} * (all + 1) + e;
    return at[1] - at[0];
  };
  for (int e = threadIdx.x; e < all; e += kThreads) {
    int sum = 0, mine = 0;
    for (int s = 0; s < P; ++s) {
      if (s == rank) mine = sum;
      sum += count(s, e);
    }
    before[e] = sum;
    first_row[e] = mine;  // of this expert's rows, those of earlier senders
  }
  __syncthreads();
  for (int r = threadIdx.x; r < P; r += kThreads) {
    int sum = 0;
    for (int e = r * E; e < (r + 1) * E; ++e) {
      const int n = before[e];
      before[e] = sum;
      sum += n;
    }
    if (r == rank) local_offsets[E] = static_cast<int>(min(int64_t{sum}, rows));
    if (wanted != nullptr && sum > rows) atomicMax(wanted, static_cast<unsigned long long>(sum));
  }
  __syncthreads();
  for (int e = threadIdx.x; e < all; e += kThreads) first_row[e] += before[e];
  for (int e = threadIdx.x; e < E; e += kThreads)
    local_offsets[e] = static_cast<int>(min(int64_t{before[rank * E + e]}, rows));
}

__global__ void __launch_bounds__(kThreads)
    places_kernel(int2* place, const int* first_row, const int* ids, const int* row_of_slot,
                  const int* offsets, int E, int64_t slots, int64_t rows) {
  const int64_t s = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (s >= slots) return;
  const int e = ids[s], row = first_row[e] + row_of_slot[s] - offsets[e];
  place[s] = make_int2(row < rows ? e / E : -1, row);
}

// A tensor on each rank.
struct Peers {
  const int64_t* bases;
  int64_t offset, width;
  template <class E>
  __device__ E* row(int2 place) const {
    return reinterpret_cast<E*>(bases[place.x] + offset) + place.y * width;
  }
};

// One block per token: its row is read once and written to its K destinations, eight elements at a
// time. Stores to other ranks need no answer, so few threads keep a link busy.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    peer_permute_kernel(Peers rows, Peers row_weights, const E* x, int64_t stride,
                        const int2* place, const float* weights, int64_t weights_stride, bool weigh,
                        int K, int64_t D) {
  const int64_t t = blockIdx.x;
  const E* const in = x + t * stride;
  if (row_weights.bases != nullptr && threadIdx.x < K) {
    const int2 p = place[t * K + threadIdx.x];
    if (p.x >= 0) *row_weights.row<float>(p) = weights[t * weights_stride + threadIdx.x];
  }
  constexpr int kAtOnce = 8;
  for (int first = 0; first < K; first += kAtOnce) {
    E* out[kAtOnce];
    float w[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int slot = min(first + k, K - 1);
      const int2 p = place[t * K + slot];
      out[k] = p.x < 0 || first + k >= K ? nullptr : rows.row<E>(p);
      w[k] = weigh ? weights[t * weights_stride + slot] : 1.0f;
    }
    for (int64_t d = threadIdx.x * N; d < D; d += kThreads * N) {
      const auto pack = Pack<E, N>::load(in + d);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (out[k] == nullptr) continue;
        auto scaled = pack;
        if (weigh) {
#pragma unroll
          for (int j = 0; j < N; ++j) scaled[j] = E(static_cast<float>(pack[j]) * w[k]);
        }
        scaled.store(out[k] + d);
      }
    }
  }
}

constexpr int kCombiners = 128;  // few threads, so that many blocks, and loads, are under way

// A block has a token.
template <class E, int N>
__global__ void __launch_bounds__(kCombiners)
    peer_combine_kernel(E* out, int64_t out_stride, float* scalars, int64_t scalars_stride,
                        Peers rows, Peers row_scalars, const int2* place, const float* weights,
                        int64_t weights_stride, const E* addend, int64_t addend_stride, int K,
                        int64_t D) {
  const int64_t t = blockIdx.x;
  const int2* const places = place + t * K;
  if (scalars != nullptr && threadIdx.x < K) {
    const int2 p = places[threadIdx.x];
    scalars[t * scalars_stride + threadIdx.x] = p.x < 0 ? 0.0f : *row_scalars.row<float>(p);
  }
  const float* const w = weights != nullptr ? weights + t * weights_stride : nullptr;
  constexpr int kAtOnce = 8;  // loads in flight
  for (int64_t d = threadIdx.x * N; d < D; d += kCombiners * N) {
    float sum[N] = {};
    for (int first = 0; first < K; first += kAtOnce) {
      Pack<E, N> in[kAtOnce];
      bool there[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        there[k] = first + k < K && places[min(first + k, K - 1)].x >= 0;
        if (there[k]) in[k] = Pack<E, N>::load(rows.row<E>(places[first + k]) + d);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (!there[k]) continue;
        const float factor = w != nullptr ? w[first + k] : 1.0f;
#pragma unroll
        for (int j = 0; j < N; ++j)
          sum[j] = __fadd_rn(sum[j], __fmul_rn(static_cast<float>(in[k][j]), factor));
      }
    }
    Pack<E, N> result;
    if (addend != nullptr) {
      const auto more = Pack<E, N>::load(addend + t * addend_stride + d);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += static_cast<float>(more[j]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) result[j] = E(sum[j]);
    result.store(out + t * out_stride + d);
  }
}

// A warp has a slot.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    peer_dot_kernel(float* out, int64_t out_stride, Peers rows, const E* x, int64_t stride,
                    const int2* place, int64_t slots, int K, int64_t D) {
  const int64_t slot = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (slot >= slots) return;
  const int64_t t = slot / K, k = slot % K;
  const int2 p = place[slot];
  float dot = 0;
  for (int64_t d = threadIdx.x % 32 * N; d < D && p.x >= 0; d += 32 * N) {
    const auto a = Pack<E, N>::load(rows.row<E>(p) + d), b = Pack<E, N>::load(x + t * stride + d);
#pragma unroll
    for (int j = 0; j < N; ++j) dot += static_cast<float>(a[j]) * static_cast<float>(b[j]);
  }
  dot = warp_sum(dot);
  if (threadIdx.x % 32 == 0) out[t * out_stride + k] = dot;
}

Peers peers(const PeerTensor& t) {
  if (!given(t)) return {};
  return {t.bases.as<int64_t>(), t.offset, t.shape.rank() == 1 ? 1 : t.shape[1]};
}

// Blocks of memory begin at multiples of 256 bytes on every rank.
bool aligned(const PeerTensor& t) {
  return t.offset % 16 == 0 && t.shape[1] * size_of(t.dtype) % 16 == 0;
}

int64_t stride_of(const ConstTensorView& v) { return v ? v.row_stride() : 0; }

}  // namespace

void peer_plan(Stream& stream, const PeerPlan& a) {
  const auto P = static_cast<int>(a.offsets.dim(0));
  const auto E = static_cast<int>(a.local_offsets.dim(0) - 1);
  const int64_t slots = a.ids.count();
  const size_t shared = sizeof(int) * static_cast<size_t>(P * E);
  first_rows_kernel<<<1, kThreads, shared, native(stream)>>>(
      a.first_row.as<int>(), a.local_offsets.as<int>(),
      a.wanted ? reinterpret_cast<unsigned long long*>(a.wanted.as<int64_t>()) : nullptr,
      a.offsets.as<int>(), P, E, static_cast<int>(a.rank), a.rows);
  if (slots > 0)
    places_kernel<<<static_cast<unsigned>(ceil_div(slots, kThreads)), kThreads, 0,
                    native(stream)>>>(
        reinterpret_cast<int2*>(a.place.as<int>()), a.first_row.as<int>(), a.ids.as<int>(),
        a.row_of_slot.as<int>(), a.offsets.as<int>() + a.rank * a.offsets.dim(1), E, slots, a.rows);
  check_launch("peer_plan");
}

void peer_permute(Stream& stream, const PeerPermute& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (T == 0 || D == 0) return;
  visit_width(aligned(a.x) && aligned(a.rows), a.x.dtype, [&]<class E, int N>() {
    peer_permute_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        peers(a.rows), peers(a.row_weights), a.x.as<E>(), a.x.row_stride(),
        reinterpret_cast<const int2*>(a.place.as<int>()), a.weights.as<float>(),
        stride_of(a.weights), a.weigh, static_cast<int>(a.place.dim(1)), D);
  });
  check_launch("peer_permute");
}

void peer_combine(Stream& stream, const PeerCombine& a) {
  const int64_t T = a.out.dim(0), D = a.out.dim(1);
  if (T == 0 || D == 0) return;
  const bool packs = aligned(a.out) && aligned(a.rows) && aligned(a.addend);
  visit_width(packs, a.out.dtype, [&]<class E, int N>() {
    peer_combine_kernel<E, N><<<static_cast<unsigned>(T), kCombiners, 0, native(stream)>>>(
        a.out.as<E>(), a.out.row_stride(), a.scalars.as<float>(), stride_of(a.scalars),
        peers(a.rows), peers(a.row_scalars), reinterpret_cast<const int2*>(a.place.as<int>()),
        a.weights.as<float>(), stride_of(a.weights), a.addend.as<E>(), stride_of(a.addend),
        static_cast<int>(a.place.dim(1)), D);
  });
  check_launch("peer_combine");
}

void peer_dot(Stream& stream, const PeerDot& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.place.dim(1);
  if (T == 0 || K == 0) return;
  visit_width(aligned(a.x) && aligned(a.rows), a.x.dtype, [&]<class E, int N>() {
    peer_dot_kernel<E, N>
        <<<static_cast<unsigned>(ceil_div(T * K, kThreads / 32)), kThreads, 0, native(stream)>>>(
            a.out.as<float>(), a.out.row_stride(), peers(a.rows), a.x.as<E>(), a.x.row_stride(),
            reinterpret_cast<const int2*>(a.place.as<int>()), T * K, static_cast<int>(K), D);
  });
  check_launch("peer_dot");
}

}  // namespace nereus::ops::cuda
