#include "ops/attention_tiles.cuh"

namespace nereus::ops::cuda {
namespace {

struct Backward {
  Heads<bf16> dq, dk, dv;
  Heads<const bf16> dout, o, q, k, v;
  const float* lse;
  float* delta;
  const int* first_key;
  FlashRows rows;
  float scale;
  bool accumulate;
};

constexpr int kDeltaTokens = 16;  // of a thread block; 16 lanes have a token of a head

// delta[t] = do[t] . o[t]
__global__ void __launch_bounds__(16 * kDeltaTokens) delta_kernel(Backward a, int64_t T) {
  const int64_t t = int64_t{blockIdx.x} * kDeltaTokens + threadIdx.x / 16;
  const int h = static_cast<int>(blockIdx.y), chunk = static_cast<int>(threadIdx.x % 16);
  float sum = 0;
  if (t < T && chunk < a.o.chunks) {
    const auto o = Pack<bf16>::load(a.o.at(t, h) + 8 * chunk),
               dout = Pack<bf16>::load(a.dout.at(t, h) + 8 * chunk);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      sum = fmaf(static_cast<float>(o[i]), static_cast<float>(dout[i]), sum);
  }
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (t < T && chunk == 0) a.delta[(t / a.rows.S * gridDim.y + h) * a.rows.S + t % a.rows.S] = sum;
}

// dq: the tiles of the forward pass, 128 queries and 64 keys at a time.
namespace dq {

constexpr int kQueries = 128, kKeys = 64;
using QueryTile = Tile<kQueries, kWidthQk>;
using OutTile = Tile<kQueries, kWidthV>;
using KeyTile = Tile<kKeys, kWidthQk>;
using ValueTile = Tile<kKeys, kWidthV>;
constexpr int kStageBytes = KeyTile::kBytes + ValueTile::kBytes;
constexpr int kSharedBytes = QueryTile::kBytes + OutTile::kBytes + 2 * kStageBytes;

__global__ void __launch_bounds__(kFlashThreads, 1) kernel(Backward a) {
  const uint32_t memory = dynamic_shared();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kQueries;
  const int count = min(kQueries, a.rows.S - tile);
  const int64_t query = int64_t{b} * a.rows.S + tile, key = int64_t{b} * a.rows.Sk;
  const int begin = static_cast<int>(a.first_key[query] - key);
  const int end = a.rows.chunk_start + tile + count;
  const SeenKeys seen(a.first_key, a.rows, b, tile, count, warp, lane);

  const QueryTile queries{memory};
  const OutTile douts{memory + QueryTile::kBytes};
  const auto keys_of = [&](int stage) {
    return KeyTile{douts.base + OutTile::kBytes + static_cast<uint32_t>(stage * kStageBytes)};
  };
  const auto values_of = [&](int stage) {
    return ValueTile{keys_of(stage).base + KeyTile::kBytes};
  };
  const auto copy = [&](int j, int stage) {
    keys_of(stage).copy(a.k, key + j, min(kKeys, end - j), h);
    values_of(stage).copy(a.v, key + j, min(kKeys, end - j), h);
  };
  queries.copy(a.q, query, count, h);
  douts.copy(a.dout, query, count, h);
  copy(begin, 0);
  commit_copies();

  float log2_sum[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = tile + min(16 * warp + lane / 4 + 8 * half, count - 1);
    const int64_t at = (int64_t{b} * gridDim.y + h) * a.rows.S + i;
    log2_sum[half] = a.lse[at] * kLog2e;
    delta[half] = a.delta[at];
  }
  const float factor = a.scale * kLog2e;
  float sum[kWidthQk / 8][4] = {};
  int stage = 0;
  for (int j = begin; j < end; j += kKeys, stage ^= 1) {
    if (j + kKeys < end) copy(j + kKeys, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    if (!seen.none(j, kKeys)) {
      float s[kKeys / 8][4], dp[kKeys / 8][4];
      product(s, queries, 16 * warp, keys_of(stage), lane);
      product(dp, douts, 16 * warp, values_of(stage), lane);
      const bool whole = seen.all(j, kKeys);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float p = fast_exp2(fmaf(s[n][e], factor, -log2_sum[e / 2]));
          const bool visible = whole || seen.sees(e / 2, j + 8 * n + lane % 4 * 2 + e % 2);
          s[n][e] = visible ? p * (dp[n][e] - delta[e / 2]) : 0.0f;
        }
      }
      add_product(sum, s, keys_of(stage), lane);
    }
    __syncthreads();
  }
  write_rows(a.dq, sum, {a.scale, a.scale}, query + 16 * warp, query + count, h, lane, false);
}

}  // namespace dq

// dk and dv: a thread block handles 128 keys of a head, a warp 16 of them, and goes over the
// queries that see them, 32 at a time.
namespace dkv {

constexpr int kQueries = 32, kKeys = 128;
using QueryTile = Tile<kQueries, kWidthQk>;
using OutTile = Tile<kQueries, kWidthV>;
using KeyTile = Tile<kKeys, kWidthQk>;
using ValueTile = Tile<kKeys, kWidthV>;
// A stage: queries, gradients, then for each query its lse, delta and first key.
constexpr int kStageBytes = QueryTile::kBytes + OutTile::kBytes + 3 * kQueries * 4 + 128;
constexpr int kSharedBytes = KeyTile::kBytes + ValueTile::kBytes + 2 * kStageBytes;
static_assert(kStageBytes % 128 == 0);

// The first of the queries [low, high) whose document starts after `key`, or high: bounds ascend.
// All lanes of a warp call it.
__device__ int first_beyond(const int* bounds, int low, int high, int key, int lane) {
  while (low < high) {
    const int step = (high - low + 31) / 32, i = low + lane * step;
    const unsigned beyond = __ballot_sync(0xffffffffu, i < high && bounds[i] > key);
    if (beyond == 0) {
      low += (high - 1 - low) / step * step + 1;
    } else {
      const int n = __ffs(static_cast<int>(beyond)) - 1;
      high = low + n * step;
      if (n > 0) low = high - step + 1;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kFlashThreads, 1) kernel(Backward a) {
  const uint32_t memory = dynamic_shared();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int tile = static_cast<int>(blockIdx.x) * kKeys;  // a row's first keys have most queries
  const int count = min(kKeys, a.rows.Sk - tile);
  const int64_t query = int64_t{b} * a.rows.S;
  const int key = b * a.rows.Sk;  // the contract counts keys in 32 bits
  const int begin = max(0, tile - a.rows.chunk_start);
  const int end = first_beyond(a.first_key + query, min(begin, a.rows.S), a.rows.S,
                               key + tile + count - 1, lane);

  const KeyTile keys{memory};
  const ValueTile values{memory + KeyTile::kBytes};
  const auto queries_of = [&](int stage) {
    return QueryTile{values.base + ValueTile::kBytes + static_cast<uint32_t>(stage * kStageBytes)};
  };
  const auto douts_of = [&](int stage) {
    return OutTile{queries_of(stage).base + QueryTile::kBytes};
  };
  const auto scalars_of = [&](int stage) { return douts_of(stage).base + OutTile::kBytes; };
  const auto copy = [&](int i, int stage) {
    const int n = min(kQueries, end - i);
    queries_of(stage).copy(a.q, query + i, n, h);
    douts_of(stage).copy(a.dout, query + i, n, h);
    if (warp < 3) {
      const bool there = lane < n;
      const int64_t stat = (int64_t{b} * gridDim.y + h) * a.rows.S + i + (there ? lane : 0);
      const int64_t bound = query + i + (there ? lane : 0);
      const void* const from = warp == 0   ? static_cast<const void*>(a.lse + stat)
                               : warp == 1 ? static_cast<const void*>(a.delta + stat)
                                           : static_cast<const void*>(a.first_key + bound);
      copy_async4(scalars_of(stage) + static_cast<uint32_t>((warp * kQueries + lane) * 4), from,
                  there);
    }
  };
  if (begin < end) {
    keys.copy(a.k, key + tile, count, h);
    values.copy(a.v, key + tile, count, h);
    copy(begin, 0);
  }
  commit_copies();

  const float factor = a.scale * kLog2e;
  const int low = tile + 16 * warp;  // the warp's first key of the row
  float dk[kWidthQk / 8][4] = {}, dv[kWidthV / 8][4] = {};
  int stage = 0;
  for (int i = begin; i < end; i += kQueries, stage ^= 1) {
    if (i + kQueries < end) copy(i + kQueries, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const int n_queries = min(kQueries, end - i), position = a.rows.chunk_start + i;
    const auto first_of = [&](int n) {
      return shared_int(scalars_of(stage) + static_cast<uint32_t>((2 * kQueries + n) * 4)) - key;
    };
    const bool none = position + n_queries <= low || first_of(0) >= low + 16;
    if (!none) {
      float p[kQueries / 8][4], ds[kQueries / 8][4];  // transposed: a row a key
      product(p, keys, 16 * warp, queries_of(stage), lane);
      product(ds, values, 16 * warp, douts_of(stage), lane);
      const bool whole =
          n_queries == kQueries && position >= low + 15 && first_of(kQueries - 1) <= low;
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          const int q = 8 * n + lane % 4 * 2 + column;
          const uint32_t scalars = scalars_of(stage) + static_cast<uint32_t>(q * 4);
          const float log2_sum = shared_float(scalars) * kLog2e,
                      delta = shared_float(scalars + kQueries * 4);
          const int first = whole ? 0 : first_of(q);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int e = 2 * half + column, j = low + lane / 4 + 8 * half;
            const bool visible = whole || (q < n_queries && j <= position + q && j >= first);
            p[n][e] = visible ? fast_exp2(fmaf(p[n][e], factor, -log2_sum)) : 0.0f;
            ds[n][e] = visible ? p[n][e] * (ds[n][e] - delta) : 0.0f;
          }
        }
      }
      add_product(dv, p, douts_of(stage), lane);
      add_product(dk, ds, queries_of(stage), lane);
    }
    __syncthreads();
  }
  write_rows(a.dk, dk, {a.scale, a.scale}, key + low, key + tile + count, h, lane, a.accumulate);
  write_rows(a.dv, dv, {1.0f, 1.0f}, key + low, key + tile + count, h, lane, a.accumulate);
}

}  // namespace dkv

}  // namespace

bool flash_takes(const AttentionBackward& a) {
  return a.scale > 0 && fits(a.q, kWidthQk) && fits(a.k, kWidthQk) && fits(a.v, kWidthV) &&
         fits(a.o, kWidthV) && fits(a.dout, kWidthV) && fits(a.dq, kWidthQk) &&
         fits(a.dk, kWidthQk) && fits(a.dv, kWidthV);
}

void flash_backward(Stream& stream, const AttentionBackward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1), B = T / a.sequence;
  const auto heads = static_cast<unsigned>(H), rows = static_cast<unsigned>(B);
  const Backward arguments{.dq = heads_of(a.dq),
                           .dk = heads_of(a.dk),
                           .dv = heads_of(a.dv),
                           .dout = heads_of(a.dout),
                           .o = heads_of(a.o),
                           .q = heads_of(a.q),
                           .k = heads_of(a.k),
                           .v = heads_of(a.v),
                           .lse = a.lse.as<float>(),
                           .delta = a.delta.as<float>(),
                           .first_key = a.first_key.as<int>(),
                           .rows = flash_rows(a),
                           .scale = a.scale,
                           .accumulate = a.accumulate};
  delta_kernel<<<dim3(static_cast<unsigned>(ceil_div(T, kDeltaTokens)), heads), 16 * kDeltaTokens,
                 0, native(stream)>>>(arguments, T);
  cudaFuncSetAttribute(dq::kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dq::kSharedBytes);
  dq::kernel<<<dim3(static_cast<unsigned>(ceil_div(a.sequence, dq::kQueries)), heads, rows),
               kFlashThreads, dq::kSharedBytes, native(stream)>>>(arguments);
  cudaFuncSetAttribute(dkv::kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dkv::kSharedBytes);
  dkv::kernel<<<dim3(static_cast<unsigned>(ceil_div(keys_of_row(a), dkv::kKeys)), heads, rows),
                kFlashThreads, dkv::kSharedBytes, native(stream)>>>(arguments);
  check_launch("attention_backward");
}

}  // namespace nereus::ops::cuda
