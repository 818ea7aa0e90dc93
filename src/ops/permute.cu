#include "ops/cuda.cuh"
#include "ops/permute.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kThreads = 256;

// The plan is a stable counting sort in three launches. A warp has a chunk of the slots, asks for
// all of their ids at once and goes over them 32 at a time; the slots of one expert among those are
// ranked by lane.
constexpr int kChunk = 256, kSteps = kChunk / 32, kWarps = 4;

// The ids of a chunk: -1 beyond the last slot.
__device__ void load_chunk(int (&mine)[kSteps], const int* ids, int64_t begin, int64_t slots) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int64_t s = begin + i * 32 + threadIdx.x % 32;
    mine[i] = s < slots ? ids[s] : -1;
  }
}

__global__ void __launch_bounds__(kWarps * 32)
    count_kernel(int* counts, const int* ids, int64_t slots, int64_t chunks, int E) {
  extern __shared__ int shared[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int* const mine = shared + warp * E;
  const int64_t chunk = int64_t{blockIdx.x} * kWarps + warp;
  if (chunk >= chunks) return;
  int id[kSteps];
  load_chunk(id, ids, chunk * kChunk, slots);
  for (int e = lane; e < E; e += 32) mine[e] = 0;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
    if (id[i] >= 0) atomicAdd(mine + id[i], 1);
  __syncwarp();
  for (int e = lane; e < E; e += 32) counts[chunk * E + e] = mine[e];
}

// A block has an expert: its counts become the number of its slots in earlier chunks.
__global__ void __launch_bounds__(kThreads)
    scan_kernel(int* counts, int* totals, int64_t chunks, int E) {
  __shared__ int parts[kThreads / 32];
  const int e = static_cast<int>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int before = 0;
  for (int64_t begin = 0; begin < chunks; begin += kThreads) {
    const int64_t c = begin + threadIdx.x;
    const int count = c < chunks ? counts[c * E + e] : 0;
    int sum = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    __syncthreads();
    if (lane == 31) parts[warp] = sum;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) sum += parts[w];
      all += parts[w];
    }
    if (c < chunks) counts[c * E + e] = before + sum - count;
    before += all;
  }
  if (threadIdx.x == 0) totals[e] = before;
}

// f(e, the sum of totals below e) for every e of [0, E]; by a warp.
template <class F>
__device__ void for_offsets(const int* totals, int E, F&& f) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int before = 0;
  for (int begin = 0; begin < E; begin += 32) {
    const int e = begin + lane, count = e < E ? totals[e] : 0;
    int sum = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (e < E) f(e, before + sum - count);
    before += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane == 0) f(E, before);
}

__global__ void __launch_bounds__(kWarps * 32)
    scatter_kernel(int* row_of_slot, int* slot_of_row, int* offsets, const int* counts,
                   const int* totals, const int* ids, int64_t slots, int64_t chunks, int E) {
  extern __shared__ int shared[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int* const next = shared + warp * E;  // the row of the expert's next slot
  const int64_t chunk = int64_t{blockIdx.x} * kWarps + warp;
  if (chunk == 0) for_offsets(totals, E, [&](int e, int offset) { offsets[e] = offset; });
  if (chunk >= chunks) return;
  int ids_of_lane[kSteps];
  load_chunk(ids_of_lane, ids, chunk * kChunk, slots);
  for_offsets(totals, E, [&](int e, int offset) {
    if (e < E) next[e] = offset + counts[chunk * E + e];
  });
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int id = ids_of_lane[i];
    const unsigned same = __match_any_sync(0xffffffffu, id);
    const int rank = __popc(same & ((1u << lane) - 1));
    const int base = id >= 0 ? next[id] : 0;
    __syncwarp();
    if (id >= 0) {
      const auto s = static_cast<int>(chunk * kChunk + i * 32 + lane);
      row_of_slot[s] = base + rank;
      slot_of_row[base + rank] = s;
      if (rank == 0) next[id] = base + __popc(same);
    }
    __syncwarp();
  }
}

// A block has a token: its row is read once and written to its K places, eight at a time. The
// places are in registers before the first store: read in between, each would wait for the one
// before it (4.1 instead of 0.8 ms for 16,384 tokens of 7,168).
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    permute_kernel(E* rows, int64_t rows_stride, const E* x, int64_t stride, const int* row_of_slot,
                   int64_t slot_stride, const float* weights, int64_t weights_stride, int K,
                   int64_t D) {
  const int64_t t = blockIdx.x;
  const E* const in = x + t * stride;
  constexpr int kAtOnce = 8;
  for (int first = 0; first < K; first += kAtOnce) {
    E* out[kAtOnce];
    float w[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int slot = min(first + k, K - 1);
      out[k] = rows + int64_t{row_of_slot[t * slot_stride + slot]} * rows_stride;
      w[k] = weights != nullptr ? weights[t * weights_stride + slot] : 1.0f;
    }
    for (int64_t d = threadIdx.x * N; d < D; d += kThreads * N) {
      const auto pack = Pack<E, N>::load(in + d);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k >= K) break;
        auto scaled = pack;
        if (weights != nullptr) {
#pragma unroll
          for (int j = 0; j < N; ++j) scaled[j] = E(static_cast<float>(pack[j]) * w[k]);
        }
        scaled.store(out[k] + d);
      }
    }
  }
}

constexpr int kCombiners = 128;  // few threads, so that many blocks, and loads, are under way

// A block has a token. What it adds last is asked for with the first rows, and the rows' places are
// read once.
template <class E, int N>
__global__ void __launch_bounds__(kCombiners, 640 / kCombiners)
    combine_kernel(E* out, int64_t out_stride, const E* rows, int64_t rows_stride,
                   const int* row_of_slot, int64_t slot_stride, const float* weights,
                   int64_t weights_stride, const E* addend, int64_t addend_stride, int K,
                   int64_t D) {
  const int64_t t = blockIdx.x;
  const int* const row = row_of_slot + t * slot_stride;
  const float* const w = weights != nullptr ? weights + t * weights_stride : nullptr;
  constexpr int kAtOnce = 8;  // loads in flight
  int place[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) place[k] = k < K ? row[k] : 0;
  for (int64_t d = threadIdx.x * N; d < D; d += kCombiners * N) {
    float sum[N] = {};
    Pack<E, N> more{};
    for (int first = 0; first < K; first += kAtOnce) {
      Pack<E, N> in[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k >= K) continue;
        const int r = first == 0 ? place[k] : row[first + k];
        in[k] = Pack<E, N>::load(rows + int64_t{r} * rows_stride + d);
      }
      if (first == 0 && addend != nullptr) more = Pack<E, N>::load(addend + t * addend_stride + d);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k >= K) continue;
        const float factor = w != nullptr ? w[first + k] : 1.0f;
#pragma unroll
        for (int j = 0; j < N; ++j)
          sum[j] = __fadd_rn(sum[j], __fmul_rn(static_cast<float>(in[k][j]), factor));
      }
    }
    Pack<E, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (addend != nullptr) sum[j] += static_cast<float>(more[j]);
      result[j] = E(sum[j]);
    }
    result.store(out + t * out_stride + d);
  }
}

// A warp has a slot.
template <class E, int N>
__global__ void __launch_bounds__(kThreads)
    row_dot_kernel(float* out, int64_t out_stride, const E* rows, int64_t rows_stride, const E* x,
                   int64_t stride, const int* row_of_slot, int64_t slot_stride, int64_t slots,
                   int K, int64_t D) {
  const int64_t slot = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (slot >= slots) return;
  const int64_t t = slot / K, k = slot % K;
  const int64_t r = row_of_slot[t * slot_stride + k];
  float dot = 0;
  for (int64_t d = threadIdx.x % 32 * N; d < D; d += 32 * N) {
    const auto a = Pack<E, N>::load(rows + r * rows_stride + d),
               b = Pack<E, N>::load(x + t * stride + d);
#pragma unroll
    for (int j = 0; j < N; ++j) dot += static_cast<float>(a[j]) * static_cast<float>(b[j]);
  }
  dot = warp_sum(dot);
  if (threadIdx.x % 32 == 0) out[t * out_stride + k] = dot;
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(float* out, const float* x, const int* index, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) out[i] = x[index[i]];
}

// Shared memory above 48 KiB must be asked for.
template <class Kernel>
size_t shared_bytes(Kernel kernel, int64_t ints) {
  const auto bytes = static_cast<size_t>(ints) * sizeof(int);
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
  return bytes;
}

int64_t stride_of(const ConstTensorView& v) { return v ? v.row_stride() : 0; }

// The counts of each chunk of slots by expert, and their sums.
int64_t counts_of(const PermutePlan& a) {
  return (ceil_div(a.ids.count(), kChunk) + 1) * (a.offsets.dim(0) - 1);
}

}  // namespace

void plan(Stream& stream, const PermutePlan& a) {
  stream.state<Workspace>().reserve<int>(counts_of(a));
}

void permute_plan(Stream& stream, const PermutePlan& a) {
  const int64_t slots = a.ids.count(), experts = a.offsets.dim(0) - 1;
  const int E = static_cast<int>(experts);
  const int64_t chunks = ceil_div(slots, kChunk);
  const auto blocks = static_cast<unsigned>(ceil_div(chunks, kWarps));
  int* const counts = stream.state<Workspace>().take<int>(counts_of(a));
  int* const totals = counts + chunks * experts;
  const int* const ids = a.ids.as<int>();
  if (slots > 0)
    count_kernel<<<blocks, kWarps * 32, shared_bytes(count_kernel, kWarps * experts),
                   native(stream)>>>(counts, ids, slots, chunks, E);
  scan_kernel<<<static_cast<unsigned>(experts), kThreads, 0, native(stream)>>>(counts, totals,
                                                                               chunks, E);
  // A first warp writes the offsets, where there are no slots too.
  scatter_kernel<<<std::max(blocks, 1u), kWarps * 32,
                   shared_bytes(scatter_kernel, kWarps * experts), native(stream)>>>(
      a.row_of_slot.as<int>(), a.slot_of_row.as<int>(), a.offsets.as<int>(), counts, totals, ids,
      slots, chunks, E);
  check_launch("permute_plan");
}

void permute(Stream& stream, const Permute& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (T == 0 || D == 0) return;
  visit_width(aligned(a.x) && aligned(a.rows), a.x.dtype, [&]<class E, int N>() {
    permute_kernel<E, N><<<static_cast<unsigned>(T), kThreads, 0, native(stream)>>>(
        a.rows.as<E>(), a.rows.row_stride(), a.x.as<E>(), a.x.row_stride(), a.row_of_slot.as<int>(),
        a.row_of_slot.row_stride(), a.weights.as<float>(), stride_of(a.weights),
        static_cast<int>(a.row_of_slot.dim(1)), D);
  });
  check_launch("permute");
}

void combine(Stream& stream, const Combine& a) {
  const int64_t T = a.out.dim(0), D = a.out.dim(1);
  if (T == 0 || D == 0) return;
  const bool packs = aligned(a.out) && aligned(a.rows) && aligned(a.addend);
  visit_width(packs, a.out.dtype, [&]<class E, int N>() {
    combine_kernel<E, N><<<static_cast<unsigned>(T), kCombiners, 0, native(stream)>>>(
        a.out.as<E>(), a.out.row_stride(), a.rows.as<E>(), a.rows.row_stride(),
        a.row_of_slot.as<int>(), a.row_of_slot.row_stride(), a.weights.as<float>(),
        stride_of(a.weights), a.addend.as<E>(), stride_of(a.addend),
        static_cast<int>(a.row_of_slot.dim(1)), D);
  });
  check_launch("combine");
}

void row_dot(Stream& stream, const RowDot& a) {
  const int64_t slots = a.row_of_slot.count(), D = a.x.dim(1);
  if (slots == 0) return;
  visit_width(aligned(a.rows) && aligned(a.x), a.x.dtype, [&]<class E, int N>() {
    row_dot_kernel<E, N>
        <<<static_cast<unsigned>(ceil_div(slots, kThreads / 32)), kThreads, 0, native(stream)>>>(
            a.out.as<float>(), a.out.row_stride(), a.rows.as<E>(), a.rows.row_stride(), a.x.as<E>(),
            a.x.row_stride(), a.row_of_slot.as<int>(), a.row_of_slot.row_stride(), slots,
            static_cast<int>(a.row_of_slot.dim(1)), D);
  });
  check_launch("row_dot");
}

void gather_scalars(Stream& stream, const GatherScalars& a) {
  const int64_t n = a.index.count();
  if (n == 0) return;
  gather_kernel<<<static_cast<unsigned>(ceil_div(n, kThreads)), kThreads, 0, native(stream)>>>(
      a.out.as<float>(), a.x.as<float>(), a.index.as<int>(), n);
  check_launch("gather_scalars");
}

}  // namespace nereus::ops::cuda
