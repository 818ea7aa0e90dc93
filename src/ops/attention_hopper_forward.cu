#include "ops/attention_hopper.cuh"

namespace nereus::ops::cuda::hopper {
namespace {

constexpr int kQueries = 128, kKeys = 128;  // of a tile

struct Parameters {
  CUtensorMap q, k, v;
  unsigned short* o;
  int64_t o_token, o_head, o_row;
  float* lse;
  const int* first_key;
  int* ticket;
  int B, H, S, Sk, chunk_start;
  int width;     // of v
  int together;  // heads whose keys and values are to stay in the L2 cache, at least
  int larger;    // the first so many groups of heads have one more
  float scale;
  bool documents;
};

// A tile of the work, from its ticket: a group of heads after the other, of these the last queries,
// which see most keys, first. Groups are about as large as each other, so that the last one too has
// short tiles enough for its long ones.
struct Work {
  int query, h, b;
  __device__ static Work of(int ticket, const Parameters& a) {
    const int tiles = ceil_div_int(a.S, kQueries), beyond = a.larger * (a.together + 1);
    const bool large = ticket < beyond * tiles;
    const int count = a.together + (large ? 1 : 0), start = large ? 0 : beyond;
    const int rest = ticket - start * tiles, group = rest / (count * tiles);
    const int in_group = rest % (count * tiles), head = start + group * count + in_group % count;
    return {(tiles - 1 - in_group / count) * kQueries, head % a.H, head / a.H};
  }
};

template <int Dqk, int Dv>
struct Shared {
  static constexpr int kBlock = 128 * 128;  // bytes of 128 rows of 64 elements
  static constexpr int kQ = Dqk / 64 * kBlock, kK = kQ, kV = Dv / 64 * kBlock;
  static constexpr int kStages = 2;
  static constexpr int q = 0, k = kQ, v = k + kStages * kK, barriers = v + kStages * kV;
  // Barriers: of q, of each stage of k and of v, and of two slots of work.
  static constexpr int q_full = barriers, q_empty = q_full + 8, k_full = q_empty + 8,
                       k_empty = k_full + 8 * kStages, v_full = k_empty + 8 * kStages,
                       v_empty = v_full + 8 * kStages, work_full = v_empty + 8 * kStages,
                       work_empty = work_full + 16, work = work_empty + 16,  // 2 slots of 4 ints
      kBytes = work + 32;
};

// The copying thread: goes through the tiles, and tells the multiplying warpgroups which.
template <int Dqk, int Dv>
__device__ void copy_tiles(const Parameters& a, uint32_t memory) {
  using M = Shared<Dqk, Dv>;
  prefetch_map(a.q);
  prefetch_map(a.k);
  prefetch_map(a.v);
  const int tiles = ceil_div_int(a.S, kQueries) * a.B * a.H;
  uint32_t n = 0, n_k = 0, n_v = 0;
  int next = atomicAdd(a.ticket, 1);
  for (;; ++n) {
    const int ticket = next;
    const Work w = ticket < tiles ? Work::of(ticket, a) : Work{-1, 0, 0};
    int begin = 0;
    const int end = a.chunk_start + min(w.query + kQueries, a.S);
    if (a.documents && w.query >= 0)
      begin = (a.first_key[int64_t{w.b} * a.S + w.query] - w.b * a.Sk) / kKeys * kKeys;
    const int blocks = ceil_div_int(end - begin, kKeys);
    wait(memory + M::work_empty + 8 * (n & 1), (n >> 1 & 1) ^ 1);
    asm volatile(
        "st.shared.v4.s32 [%0], {%1, %2, %3, %4};\n" ::"r"(memory + M::work + 16 * (n & 1)),
        "r"(w.query), "r"(w.b * a.H + w.h), "r"(begin), "r"(blocks)
        : "memory");
    arrive(memory + M::work_full + 8 * (n & 1));
    if (w.query < 0) return;

    wait(memory + M::q_empty, (n & 1) ^ 1);
    arrive_expecting(memory + M::q_full, M::kQ);
#pragma unroll
    for (int i = 0; i < Dqk / 64; ++i)
      copy_box(memory + M::q + i * M::kBlock, a.q, memory + M::q_full, 64 * i, w.query, w.h, w.b);
    for (int i = 0; i <= blocks; ++i) {
      if (i < blocks) {
        const uint32_t stage = n_k % M::kStages, phase = n_k / M::kStages & 1;
        wait(memory + M::k_empty + 8 * stage, phase ^ 1);
        arrive_expecting(memory + M::k_full + 8 * stage, M::kK);
#pragma unroll
        for (int j = 0; j < Dqk / 64; ++j)
          copy_box(memory + M::k + stage * M::kK + j * M::kBlock, a.k,
                   memory + M::k_full + 8 * stage, 64 * j, begin + (blocks - 1 - i) * kKeys, w.h,
                   w.b);
        ++n_k;
      }
      if (i == max(blocks - 2, 0)) next = atomicAdd(a.ticket, 1);  // on its way meanwhile
      if (i > 0) {
        const uint32_t stage = n_v % M::kStages, phase = n_v / M::kStages & 1;
        wait(memory + M::v_empty + 8 * stage, phase ^ 1);
        arrive_expecting(memory + M::v_full + 8 * stage, M::kV);
#pragma unroll
        for (int j = 0; j < Dv / 64; ++j)
          copy_box(memory + M::v + stage * M::kV + j * M::kBlock, a.v,
                   memory + M::v_full + 8 * stage, 64 * j, begin + (blocks - i) * kKeys, w.h, w.b);
        ++n_v;
      }
    }
  }
}

// Scores that may not be seen become minus infinity. `key`: the first of the tile; sees: of rows
// lane / 4 and lane / 4 + 8, the first and the last key.
__device__ inline void mask(float (&s)[kKeys / 2], int key, const int (&first)[2],
                            const int (&last)[2], int lane) {
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    const int j = key + 8 * (i / 4) + lane % 4 * 2 + i % 2, half = i / 2 % 2;
    if (j > last[half] || j < first[half]) s[i] = -INFINITY;
  }
}

// The online softmax's step: scores become exponentials; the maxima and sums of rows move on.
// Returns in `keep` what earlier sums count now.
__device__ inline void exponentials(float (&s)[kKeys / 2], float (&top)[2], float (&norm)[2],
                                    float (&keep)[2], float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float now = top[half];
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i)
      now = fmaxf(now, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
    const float base = now == -INFINITY ? 0.0f : now * factor;  // nothing seen yet
    keep[half] = fast_exp2(fmaf(top[half], factor, -base));
    top[half] = now;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[4 * i + e] = fast_exp2(fmaf(s[4 * i + e], factor, -base));
        sum += s[4 * i + e];
      }
    }
    norm[half] = fmaf(norm[half], keep[half], sum);
  }
}

template <int Dqk, int Dv>
__device__ void multiply_tiles(const Parameters& a, uint32_t memory, int group) {
  using M = Shared<Dqk, Dv>;
  const int lane = static_cast<int>(threadIdx.x) % 32,
            warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const float factor = a.scale * kLog2e;
  const uint64_t k = tile_operand<128>(memory + M::k, 0);
  const uint64_t v = tile_operand<128>(memory + M::v, M::kBlock);
  uint32_t n_k = 0, n_v = 0;
  for (uint32_t n = 0;; ++n) {
    wait(memory + M::work_full + 8 * (n & 1), n >> 1 & 1);
    int query, head, begin, blocks;
    asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(query), "=r"(head), "=r"(begin), "=r"(blocks)
                 : "r"(memory + M::work + 16 * (n & 1))
                 : "memory");
    if (query < 0) return;
    arrive(memory + M::work_empty + 8 * (n & 1));

    const int b = head / a.H, row = query + 64 * group + 16 * warp + lane / 4;
    int first[2] = {0, 0};
    const int last[2] = {a.chunk_start + row, a.chunk_start + row + 8};
    if (a.documents) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        first[half] = a.first_key[int64_t{b} * a.S + min(row + 8 * half, a.S - 1)] - b * a.Sk;
    }
    uint32_t q[Dqk / 16][4];
    const auto scores = [&](float(&s)[kKeys / 2]) {
      const uint64_t keys = further(k, static_cast<int>(n_k % M::kStages) * M::kK);
#pragma unroll
      for (int i = 0; i < Dqk / 16; ++i)
        product<false>(i == 0, s, q[i], further(keys, i / 4 * M::kBlock + i % 4 * 32));
    };
    const auto hide = [&](float(&s)[kKeys / 2], int block) {
      const int key = begin + block * kKeys;
      if (key + kKeys - 1 > a.chunk_start + query + 64 * group ||
          (a.documents && __any_sync(0xffffffffu, key < first[1])))
        mask(s, key, first, last, lane);
    };

    float o[Dv / 2], s[kKeys / 2], top[2] = {-INFINITY, -INFINITY}, norm[2] = {0, 0}, keep[2];
    uint32_t p[kKeys / 16][4];
    const auto pack_p = [&] {
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) p[i][j] = pack_bf16(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
    };
    const auto values = [&] {
      const uint64_t from = further(v, static_cast<int>(n_v % M::kStages) * M::kV);
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i) multiply_add<true>(o, p[i], further(from, i * 2048));
    };

    wait(memory + M::q_full, n & 1);
#pragma unroll
    for (int i = 0; i < Dqk / 16; ++i) {
      const int r = 64 * group + 16 * warp + lane % 16, chunk = i % 4 * 2 + lane / 16;
      load_matrices(q[i], memory + M::q + i / 4 * M::kBlock + r * 128 + (chunk ^ r % 8) * 16);
    }
    wait(memory + M::k_full + 8 * (n_k % M::kStages), n_k / M::kStages & 1);
    products_begin();
    scores(s);
    products_commit();
    // Not before the products have taken q: an arrival overtakes loads that are on their way.
    arrive(memory + M::q_empty);
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) o[i] = 0;
    products_wait<0>();
    written(s);
    arrive(memory + M::k_empty + 8 * (n_k++ % M::kStages));
    hide(s, blocks - 1);
    exponentials(s, top, norm, keep, factor);
    pack_p();
    for (int block = blocks - 2; block >= 0; --block) {
      wait(memory + M::k_full + 8 * (n_k % M::kStages), n_k / M::kStages & 1);
      products_begin();
      scores(s);
      products_commit();
      wait(memory + M::v_full + 8 * (n_v % M::kStages), n_v / M::kStages & 1);
      values();
      products_commit();
      products_wait<1>();
      written(s);
      arrive(memory + M::k_empty + 8 * (n_k++ % M::kStages));
      hide(s, block);
      exponentials(s, top, norm, keep, factor);
      products_wait<0>();
      written(o);
      arrive(memory + M::v_empty + 8 * (n_v++ % M::kStages));
#pragma unroll
      for (int i = 0; i < Dv / 2; ++i) o[i] *= keep[i / 2 % 2];
      pack_p();
    }
    wait(memory + M::v_full + 8 * (n_v % M::kStages), n_v / M::kStages & 1);
    products_begin();
    values();
    products_commit();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      norm[half] += __shfl_xor_sync(0xffffffffu, norm[half], 1);
      norm[half] += __shfl_xor_sync(0xffffffffu, norm[half], 2);
      if (lane % 4 == 0 && row + 8 * half < a.S)
        a.lse[int64_t{head} * a.S + row + 8 * half] = top[half] * a.scale + logf(norm[half]);
    }
    products_wait<0>();
    written(o);
    arrive(memory + M::v_empty + 8 * (n_v++ % M::kStages));
    const int first_row = row - lane / 4;
    write_rows({a.o + b * a.o_row + first_row * a.o_token + head % a.H * a.o_head, a.o_token,
                a.S - first_row, a.width},
               o, 1 / norm[0], 1 / norm[1], lane, false);
  }
}

template <int Dqk, int Dv>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ Parameters a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using M = Shared<Dqk, Dv>;
  const uint32_t memory = dynamic_shared_address();
  if (threadIdx.x == 0) {
    barrier_init(memory + M::q_full, 1);
    barrier_init(memory + M::q_empty, kMultiplying);
    for (int i = 0; i < M::kStages; ++i) {
      barrier_init(memory + M::k_full + 8 * i, 1);
      barrier_init(memory + M::k_empty + 8 * i, kMultiplying);
      barrier_init(memory + M::v_full + 8 * i, 1);
      barrier_init(memory + M::v_empty + 8 * i, kMultiplying);
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(memory + M::work_full + 8 * i, 1);
      barrier_init(memory + M::work_empty + 8 * i, kMultiplying);
    }
    barriers_ready();
  }
  __syncthreads();
  const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  if (group == 0) {
    shrink_registers<Registers<24, 240>::copying>();
    if (threadIdx.x == 0) copy_tiles<Dqk, Dv>(a, memory);
  } else {
    grow_registers<Registers<24, 240>::multiplying>();
    multiply_tiles<Dqk, Dv>(a, memory, group - 1);
  }
#endif
}

template <int Dqk, int Dv>
void start(const Parameters& parameters, const Problem& p) {
  constexpr int kBytes = Shared<Dqk, Dv>::kBytes;
  const auto kernel = forward_kernel<Dqk, Dv>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int tiles = ceil_div_int(p.S, kQueries) * p.B * p.H;
  cudaMemsetAsync(parameters.ticket, 0, sizeof(int), p.stream);
  kernel<<<std::min(tiles, p.multiprocessors), kThreads, kBytes, p.stream>>>(parameters);
}

}  // namespace

void launch(const ForwardArguments& x) {
  const Problem& p = x.problem;
  Parameters a{.q = map_of(x.q, p.B, p.H, p.S, kQueries, 64),
               .k = map_of(x.k, p.B, p.H, p.Sk, kKeys, 64),
               .v = map_of(x.v, p.B, p.H, p.Sk, kKeys, 64),
               .o = static_cast<unsigned short*>(x.o.data),
               .o_token = x.o.token,
               .o_head = x.o.head,
               .o_row = x.o.token * p.S,
               .lse = x.lse,
               .first_key = p.first_key,
               .ticket = x.ticket,
               .B = p.B,
               .H = p.H,
               .S = p.S,
               .Sk = p.Sk,
               .chunk_start = p.chunk_start,
               .width = x.o.width,
               .together = 1,
               .scale = p.scale,
               .documents = p.documents};
  // Keys and values of a group take a part of the 50 MB cache.
  const int64_t head = int64_t{p.Sk} * (x.k.width + x.v.width) * 2;
  const int heads = p.B * p.H,
            most = static_cast<int>(std::clamp<int64_t>((int64_t{24} << 20) / head, 1, heads));
  const int groups = ceil_div_int(heads, most);
  a.together = heads / groups;
  a.larger = heads % groups;
  visit_widths(x.q.width, x.v.width, [&]<int Dqk, int Dv>() { start<Dqk, Dv>(a, p); });
}

}  // namespace nereus::ops::cuda::hopper
