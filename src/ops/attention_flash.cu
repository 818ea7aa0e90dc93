#include "ops/attention_tiles.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kQueries = 128, kKeys = 64;  // of a tile
using QueryTile = Tile<kQueries, kWidthQk>;
using KeyTile = Tile<kKeys, kWidthQk>;
using ValueTile = Tile<kKeys, kWidthV>;
constexpr int kStageBytes = KeyTile::kBytes + ValueTile::kBytes;
constexpr int kSharedBytes = QueryTile::kBytes + 2 * kStageBytes;

struct Forward {
  Heads<bf16> o;
  Heads<const bf16> q, k, v;
  float* lse;
  const int* first_key;
  FlashRows rows;
  float scale;
};

// One step of the online softmax: turns a tile's scores into exponentials, and rescales the running
// sum and the accumulator where the maximum grew.
__device__ void online_softmax_update(float (&s)[kKeys / 8][4], float (&sum)[kWidthV / 8][4],
                                      float (&top)[2], float (&norm)[2], float scale) {
  const float factor = scale * kLog2e;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float now = top[half];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) now = fmaxf(now, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
    const float base = now == -INFINITY ? 0.0f : now * factor;  // nothing seen yet
    const float keep = fast_exp2(fmaf(top[half], factor, -base));
    float part = 0;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[n][e] = fast_exp2(fmaf(s[n][e], factor, -base));
        part += s[n][e];
      }
    }
    norm[half] = norm[half] * keep + part;
    top[half] = now;
#pragma unroll
    for (int n = 0; n < kWidthV / 8; ++n) {
      sum[n][2 * half] *= keep;
      sum[n][2 * half + 1] *= keep;
    }
  }
}

// A thread block handles 128 queries of a head, a warp 16 of them. It goes over the keys that they
// see, 64 at a time, while the next 64 are copied.
__global__ void __launch_bounds__(kFlashThreads, 1) forward_kernel(Forward a) {
  const uint32_t memory = dynamic_shared();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  // The longest tiles, which are a row's last, start first.
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kQueries;
  const int count = min(kQueries, a.rows.S - tile);
  const int64_t query = int64_t{b} * a.rows.S + tile, key = int64_t{b} * a.rows.Sk;
  const int begin = static_cast<int>(a.first_key[query] - key);
  const int end = a.rows.chunk_start + tile + count;
  const SeenKeys seen(a.first_key, a.rows, b, tile, count, warp, lane);

  const QueryTile queries{memory};
  const auto keys_of = [&](int stage) {
    return KeyTile{memory + QueryTile::kBytes + static_cast<uint32_t>(stage * kStageBytes)};
  };
  const auto values_of = [&](int stage) {
    return ValueTile{keys_of(stage).base + KeyTile::kBytes};
  };
  const auto copy = [&](int j, int stage) {
    keys_of(stage).copy(a.k, key + j, min(kKeys, end - j), h);
    values_of(stage).copy(a.v, key + j, min(kKeys, end - j), h);
  };
  queries.copy(a.q, query, count, h);
  copy(begin, 0);
  commit_copies();

  float sum[kWidthV / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, norm[2] = {};
  uint32_t q[QueryTile::kSteps][4] = {};
  int stage = 0;
  for (int j = begin; j < end; j += kKeys, stage ^= 1) {
    if (j + kKeys < end) copy(j + kKeys, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    if (j == begin) {
#pragma unroll
      for (int k = 0; k < QueryTile::kSteps; ++k) queries.rows(q[k], 16 * warp, k, lane);
    }
    if (!seen.none(j, kKeys)) {
      const KeyTile keys = keys_of(stage);
      float s[kKeys / 8][4] = {};
#pragma unroll
      for (int k = 0; k < KeyTile::kSteps; ++k) {
#pragma unroll
        for (int n = 0; n < kKeys / 16; ++n) {
          uint32_t b_pair[4];
          keys.columns(b_pair, 16 * n, k, lane);
          multiply_add(s[2 * n], q[k], b_pair[0], b_pair[1]);
          multiply_add(s[2 * n + 1], q[k], b_pair[2], b_pair[3]);
        }
      }
      if (!seen.all(j, kKeys)) {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (!seen.sees(e / 2, j + 8 * n + lane % 4 * 2 + e % 2)) s[n][e] = -INFINITY;
      }
      online_softmax_update(s, sum, top, norm, a.scale);
      add_product(sum, s, values_of(stage), lane);
    }
    __syncthreads();  // the tile is filled again
  }

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    norm[half] += __shfl_xor_sync(0xffffffffu, norm[half], 1);
    norm[half] += __shfl_xor_sync(0xffffffffu, norm[half], 2);
    inverse[half] = 1.0f / norm[half];
    const int i = tile + 16 * warp + lane / 4 + 8 * half;
    if (lane % 4 == 0 && i < tile + count)
      a.lse[(int64_t{b} * gridDim.y + h) * a.rows.S + i] = top[half] * a.scale + logf(norm[half]);
  }
  write_rows(a.o, sum, inverse, query + 16 * warp, query + count, h, lane, false);
}

}  // namespace

bool flash_takes(const AttentionForward& a) {
  return a.scale > 0 && fits(a.q, kWidthQk) && fits(a.k, kWidthQk) && fits(a.v, kWidthV) &&
         fits(a.o, kWidthV);
}

void flash_forward(Stream& stream, const AttentionForward& a) {
  const int64_t H = a.q.dim(1), B = a.q.dim(0) / a.sequence;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.sequence, kQueries)), static_cast<unsigned>(H),
                  static_cast<unsigned>(B));
  cudaFuncSetAttribute(forward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  forward_kernel<<<grid, kFlashThreads, kSharedBytes, native(stream)>>>(
      {.o = heads_of(a.o),
       .q = heads_of(a.q),
       .k = heads_of(a.k),
       .v = heads_of(a.v),
       .lse = a.lse.as<float>(),
       .first_key = a.first_key.as<int>(),
       .rows = flash_rows(a),
       .scale = a.scale});
  check_launch("attention_forward");
}

}  // namespace nereus::ops::cuda
