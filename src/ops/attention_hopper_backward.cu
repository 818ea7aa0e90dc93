#include "ops/attention_hopper_backward.cuh"

namespace nereus::ops::cuda::hopper {
namespace backward {
namespace {

// The thread's number in its warpgroup. Read anew each time, so that what is made of it does not
// stay in registers.
__device__ inline int thread_of_group() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return static_cast<int>(thread % 128);
}

// Four statistics of this lane's queries, of which row i of four has two.
__device__ inline void read_stats(float (&x)[4], uint32_t stats, int i) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "r"(stats + 64 * i)
               : "memory");
}

// A tile's weights p = exp2(scores * factor - lse), 64 keys by 64 queries; 0 where a query does not
// see the key. `stats`: this lane's in shared memory; `hides`: not all is seen; key, query: the
// positions of this lane's first row and column.
__device__ inline void weights(float (&s)[32], uint32_t stats, float factor, bool hides, int key,
                               int query) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float lse[4];
    read_stats(lse, stats, i);
#pragma unroll
    for (int e = 0; e < 8; ++e)
      s[8 * i + e] = fast_exp2(fmaf(s[8 * i + e], factor, -lse[e / 4 * 2 + e % 2]));
  }
  if (!hides) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float first[4];
    read_stats(first, stats + 2 * 256, i);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int j = key + e % 4 / 2 * 8, t = query + 16 * i + e / 4 * 8 + e % 2;
      if (j > t || j < __float_as_int(first[e / 4 * 2 + e % 2])) s[8 * i + e] = 0;
    }
  }
}

// ds = p (dp - delta), as fragments.
__device__ inline void score_gradients(uint32_t (&ds)[4][4], const uint32_t (&p)[4][4],
                                       const float (&dp)[32], uint32_t stats) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float delta[4];
    read_stats(delta, stats + 256, i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = 8 * i + 2 * j;
      ds[i][j] = pack_bf16(low_of(p[i][j]) * (dp[at] - delta[j / 2 * 2]),
                           high_of(p[i][j]) * (dp[at + 1] - delta[j / 2 * 2 + 1]));
    }
  }
}

// Hands a tile's part of dq, 64 queries by half of the columns, to the keeper of turns; or, being
// the last, adds the sum to it and writes dq.
template <class M, int group, int first, int n>
__device__ inline void add_dq(const Parameters& a, float (&dq)[n], PartKind kind, uint32_t memory,
                              uint32_t slot, int tile) {
  const int thread = thread_of_group();
  if (kind <= kAdds) {
    const uint32_t part =
        memory + M::dq + static_cast<uint32_t>(group * M::kDq + first * 8192 + thread * 16);
#pragma unroll
    for (int i = 0; i < n / 4; ++i)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(part + 2048 * i),
                   "f"(dq[4 * i]), "f"(dq[4 * i + 1]), "f"(dq[4 * i + 2]), "f"(dq[4 * i + 3])
                   : "memory");
    stores_before_products();
    return;
  }
  if (kind == kFinishes) {
    const uint32_t sum =
        memory + M::dq + static_cast<uint32_t>(group * M::kDq + first * 8192 + thread * 16);
#pragma unroll
    for (int i = 0; i < n / 4; ++i)
      add_shared(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3], sum + 2048 * i);
  }
  const Work w = read_work(slot);
  const int h = w.head % a.H, b = w.head / a.H, row = tile * kQueries + thread / 32 * 16;
  write_rows(Place{a.dq + (int64_t{b} * a.S + row) * a.dq_token + h * a.dq_head +
                       group * (M::kDq / 256) + first * 32,
                   a.dq_token, a.S - row, a.width_qk - group * (M::kDq / 256) - first * 32},
             dq, a.scale, a.scale, thread % 32, false);
}

template <int Dqk, int Dv, int group>
__device__ void multiply_tiles(const Parameters& a, uint32_t memory) {
  using M = Shared<Dqk, Dv>;
  const float factor = a.scale * kLog2e;
  const uint64_t k_rows = tile_operand<64>(memory + M::k + group * 64 * 64, 0);
  const uint64_t v_rows = tile_operand<128>(memory + M::v + group * 64 * 128, 0);
  const uint64_t dout = tile_operand<128>(memory + M::dout, M::kQBlock);
  const uint64_t k_columns =
      tile_operand<64>(memory + M::k + group * (Dqk / 64) * M::kKBlock, M::kKBlock);
  uint32_t at = 0;
  for (uint32_t n = 0;; ++n) {
    const uint32_t slot = memory + M::work + 16 * (n % M::kSlots);
    wait(memory + M::work_full + 8 * (n % M::kSlots), n / M::kSlots & 1);
    const Work begin = read_work(slot);
    if (begin.block < 0) return;
    const int key = begin.block * kKeys + 64 * group, end = begin.end;
    int walked = begin.begin;
    const bool some = walked < end;
    float dk[Dqk / 2], dv[Dv / 2], s[32];
    uint32_t p[4][4];
#pragma unroll
    for (int i = 0; i < Dqk / 2; ++i) dk[i] = 0;
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) dv[i] = 0;
    const auto scores = [&](uint32_t number) {
      const uint32_t stage = number % M::kStages;
      const uint64_t q = tile_operand<128>(memory + M::q + stage * M::kQ, 0);
      wait(memory + M::q_full + 8 * stage, number / M::kStages & 1);
      products_begin();
#pragma unroll
      for (int i = 0; i < Dqk / 16; ++i)
        product<false, false>(i == 0, s, further(k_rows, i / 2 * M::kKBlock + i % 2 * 32),
                              further(q, i / 4 * M::kQBlock + i % 4 * 32));
      products_commit();
    };
    const auto stats_of = [&](uint32_t number) {
      return memory + M::stats + number % M::kStages * kStatBytes + thread_of_group() % 4 * 16;
    };
    // From scores to weights.
    const auto weigh = [&](int next, uint32_t number) {
      const int thread = thread_of_group();
      const int query = a.chunk_start + tile_of(next) * kQueries;
      bool hides = key + 63 > query;
      if (a.documents) {
        int first;
        asm volatile("ld.shared.s32 %0, [%1];\n"
                     : "=r"(first)
                     : "r"(memory + M::stats + number % M::kStages * kStatBytes + 3 * 256 - 4)
                     : "memory");
        hides = hides || first > key;
      }
      weights(s, stats_of(number), factor, hides, key + thread / 32 * 16 + thread % 32 / 4,
              query + thread % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) p[i][j] = pack_bf16(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
    };
    // From weights to the gradients of scores, which go to shared memory; adds to dv.
    const auto gradients = [&](uint32_t number) {
      wait(memory + M::dout_full, number & 1);
      float dp[32];
      products_begin();
#pragma unroll
      for (int i = 0; i < Dv / 16; ++i)
        product<false, false>(i == 0, dp, further(v_rows, i / 4 * M::kVBlock + i % 4 * 32),
                              further(dout, i / 4 * M::kQBlock + i % 4 * 32));
      products_commit();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_add<true>(dv, p[i], further(dout, i * 2048));
      products_commit();
      products_wait<1>();
      written(dp);
      uint32_t ds[4][4];
      score_gradients(ds, p, dp, stats_of(number));
      // dS^T, 128 keys by 64 queries: this lane's row of a matrix of eight queries.
      const int thread = thread_of_group(), key_row = 64 * group + thread / 32 * 16 + thread % 16;
      const uint32_t row =
          memory + M::ds + number % 2 * M::kDs +
          static_cast<uint32_t>(key_row * 128 + (thread % 32 / 16 ^ key_row % 8) * 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) store_matrices(row ^ static_cast<uint32_t>(32 * i), ds[i]);
      stores_before_products();
      products_wait<0>();
      written(dv);
      arrive(memory + M::dout_empty);
    };
    const auto add_dk = [&](uint32_t number) {
      const uint64_t ds =
          tile_operand<128>(memory + M::ds + number % 2 * M::kDs + group * 64 * 128, 0);
      const uint64_t q = tile_operand<128>(memory + M::q + number % M::kStages * M::kQ, M::kQBlock);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        multiply_add<false, true>(dk, further(ds, i * 32), further(q, i * 2048));
      products_commit();
    };
    // `columns` of a tile's part of dq, from 32 `first` on; with `then` behind it.
    const auto query_gradients = [&]<int first, int columns>(uint32_t number, auto&& then) {
      float dq[columns / 2];
      const uint64_t ds = tile_operand<128>(memory + M::ds + number % 2 * M::kDs, 0);
      products_begin();
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i)
        product<true, true>(i == 0, dq, further(ds, i * 2048),
                            further(k_columns, first * M::kKBlock + i * 1024));
      products_commit();
      then();
      written(dq);
      if (first == 0) {
        wait(memory + M::part_full + 8 * (number & 1), number >> 1 & 1);
        wait(memory + M::part_free, (number & 1) ^ 1);
      }
      int kind;
      asm volatile("ld.shared.s32 %0, [%1];\n"
                   : "=r"(kind)
                   : "r"(memory + M::part_kind + 4 * (number & 1))
                   : "memory");
      add_dq<M, group, first>(a, dq, static_cast<PartKind>(kind), memory, slot, tile_of(walked));
      if (first * 32 + columns == Dqk / 2)
        arrive_threads(kAdded + 2 * static_cast<int>(number & 1) + group, 128 + 32);
    };

    wait(memory + M::k_full, n & 1);
    if (some) {
      scores(at);
      products_wait<0>();
      written(s);
      weigh(walked, at);
      wait(memory + M::v_full, n & 1);
      gradients(at);
      for (; walked + 1 < end; ++walked, ++at) {
        sync_threads<kExchange>(kMultiplying);
        // One warpgroup makes dq first and the other the next weights, so that the tensor cores
        // work for one while the other computes exponentials or moves dq.
        if constexpr (group == 0) {
          query_gradients.template operator()<0, Dqk / 2>(at, [&] {
            add_dk(at);
            products_wait<1>();
          });
          scores(at + 1);
          products_wait<0>();
          written(s);
          written(dk);
          arrive(memory + M::q_empty + 8 * (at % M::kStages));
          weigh(walked + 1, at + 1);
        } else {
          scores(at + 1);
          add_dk(at);
          products_wait<1>();
          written(s);
          weigh(walked + 1, at + 1);
          products_wait<0>();
          written(dk);
          arrive(memory + M::q_empty + 8 * (at % M::kStages));
          const auto finish = [] { products_wait<0>(); };
          if constexpr (Dqk == 192) {  // for want of registers
            query_gradients.template operator()<0, 64>(at, finish);
            query_gradients.template operator()<2, 32>(at, finish);
          } else {
            query_gradients.template operator()<0, Dqk / 2>(at, finish);
          }
        }
        gradients(at + 1);
      }
      arrive(memory + M::v_empty);
      sync_threads<kExchange>(kMultiplying);
      query_gradients.template operator()<0, Dqk / 2>(at, [&] {
        add_dk(at);
        products_wait<1>();
      });
      products_wait<0>();
      arrive(memory + M::q_empty + 8 * (at % M::kStages));
      ++at;
    } else {
      arrive(memory + M::v_empty);
    }
    written(dk);
    written(dv);
    arrive(memory + M::k_empty);
    const Work w = read_work(slot);
    const int thread = thread_of_group(), lane = thread % 32, warp = thread / 32;
    const int row = key + 16 * warp, h = w.head % a.H, b = w.head / a.H;
    const int64_t token = int64_t{b} * a.Sk + row;
    const int rows = some || !a.accumulate ? a.Sk - row : 0;
    write_rows(Place{a.dk + token * a.dk_token + h * a.dk_head, a.dk_token, rows, a.width_qk}, dk,
               a.scale, a.scale, lane, a.accumulate);
    write_rows(Place{a.dv + token * a.dv_token + h * a.dv_head, a.dv_token, rows, a.width_v}, dv,
               1.0f, 1.0f, lane, a.accumulate);
    arrive(memory + M::work_empty + 8 * (n % M::kSlots));
  }
}

template <int Dqk, int Dv>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ Parameters a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using M = Shared<Dqk, Dv>;
  const uint32_t memory = dynamic_shared_address();
  if (threadIdx.x == 0) {
    barrier_init(memory + M::k_full, 1);
    barrier_init(memory + M::k_empty, kMultiplying);
    barrier_init(memory + M::v_full, 1);
    barrier_init(memory + M::v_empty, kMultiplying);
    barrier_init(memory + M::dout_full, 1);
    barrier_init(memory + M::dout_empty, kMultiplying);
    barrier_init(memory + M::part_free, 1);
    barrier_init(memory + M::draw, 1);
    for (int i = 0; i < M::kStages; ++i) {
      barrier_init(memory + M::q_full + 8 * i, 1);
      barrier_init(memory + M::q_empty + 8 * i, kMultiplying);
    }
    for (int i = 0; i < M::kSlots; ++i) {
      barrier_init(memory + M::work_full + 8 * i, 1);
      barrier_init(memory + M::work_empty + 8 * i, kMultiplying + kKeepers + 1);
    }
    for (int i = 0; i < 2; ++i) barrier_init(memory + M::part_full + 8 * i, 1);
    barriers_ready();
  }
  __syncthreads();
  const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  if (group == 0) {
    shrink_registers<M::Registers::copying>();
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (warp == 0 && lane == 0) copy_tiles<Dqk, Dv>(a, memory);
    if (warp == 1 || warp == 2) keep_turns<Dqk, Dv>(a, memory, warp - 1, lane);
    if (warp == 3) draw_work<Dqk, Dv>(a, memory, lane);
  } else {
    grow_registers<M::Registers::multiplying>();
    if (group == 1) {
      multiply_tiles<Dqk, Dv, 0>(a, memory);
    } else {
      multiply_tiles<Dqk, Dv, 1>(a, memory);
    }
  }
#endif
}

// delta = do . o, with lse and the first key in the layout of Parameters::stats; a thread block a
// head and tile. Clears the turns.
struct Preparation {
  const unsigned short *dout, *o;
  int64_t dout_token, dout_head, o_token, o_head;
  const float* lse;
  const int* first_key;
  float* stats;
  int *turns, *ticket;
  int H, S, Sk, chunks;  // of 8 elements of a head
};
// Where a query's statistics are: those that a lane of a product's fragment needs lie together.
__device__ inline int stat_of(int query) {
  return query / 16 * 16 + query % 8 / 2 * 4 + query / 8 % 2 * 2 + query % 2;
}
__global__ void __launch_bounds__(256) prepare_kernel(Preparation a) {
  const int tile = static_cast<int>(blockIdx.y), h = static_cast<int>(blockIdx.x) % a.H,
            b = static_cast<int>(blockIdx.x) / a.H, chunk = static_cast<int>(threadIdx.x) % 16;
  const int64_t head_tile = int64_t{blockIdx.x} * gridDim.y + tile;
  float* const stats = a.stats + head_tile * (kStatBytes / 4);
  if (threadIdx.x == 0) {
    a.turns[head_tile] = 0;
    if (head_tile == 0) *a.ticket = 0;
  }
  uint4 x[4], y[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = tile * kQueries + 16 * i + static_cast<int>(threadIdx.x) / 16;
    const int64_t token = int64_t{b} * a.S + t;
    x[i] = y[i] = make_uint4(0, 0, 0, 0);
    if (t < a.S && chunk < a.chunks) {
      x[i] = __ldcs(reinterpret_cast<const uint4*>(a.dout + token * a.dout_token + h * a.dout_head +
                                                   8 * chunk));
      y[i] = __ldcs(
          reinterpret_cast<const uint4*>(a.o + token * a.o_token + h * a.o_head + 8 * chunk));
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t u[4] = {x[i].x, x[i].y, x[i].z, x[i].w}, w[4] = {y[i].x, y[i].y, y[i].z, y[i].w};
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      sum = fmaf(high_of(u[j]), high_of(w[j]), fmaf(low_of(u[j]), low_of(w[j]), sum));
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (chunk == 0) stats[kQueries + stat_of(16 * i + static_cast<int>(threadIdx.x) / 16)] = sum;
  }
  if (threadIdx.x < kQueries) {
    const int t = tile * kQueries + static_cast<int>(threadIdx.x);
    const int at = stat_of(static_cast<int>(threadIdx.x));
    stats[at] = t < a.S ? a.lse[int64_t{blockIdx.x} * a.S + t] * kLog2e : INFINITY;
    stats[2 * kQueries + at] =
        __int_as_float(a.first_key[int64_t{b} * a.S + min(t, a.S - 1)] - b * a.Sk);
  }
}

template <int Dqk, int Dv>
void start(const BackwardArguments& x) {
  const Problem& p = x.problem;
  const ops::hopper::BackwardWorkspace parts(int64_t{p.B} * p.H, p.S, Dqk);
  auto* const memory = static_cast<unsigned char*>(x.workspace);
  auto* const stats = reinterpret_cast<float*>(memory + parts.stats);
  auto* const turns = reinterpret_cast<int*>(memory + parts.turns);
  auto* const ticket = reinterpret_cast<int*>(memory + parts.ticket);
  const auto data = [](const Heads& t) { return static_cast<unsigned short*>(t.data); };
  const dim3 grid(static_cast<unsigned>(p.B * p.H),
                  static_cast<unsigned>(ceil_div_int(p.S, kQueries)));
  prepare_kernel<<<grid, 256, 0, p.stream>>>({.dout = data(x.dout),
                                              .o = data(x.o),
                                              .dout_token = x.dout.token,
                                              .dout_head = x.dout.head,
                                              .o_token = x.o.token,
                                              .o_head = x.o.head,
                                              .lse = x.lse,
                                              .first_key = p.first_key,
                                              .stats = stats,
                                              .turns = turns,
                                              .ticket = ticket,
                                              .H = p.H,
                                              .S = p.S,
                                              .Sk = p.Sk,
                                              .chunks = x.o.width / 8});
  // Blocks of keys add to a tile of queries one after the other. Where all blocks of a head begin
  // with the same queries (chunks), each waits until the one before has gone on, while thread
  // blocks come free two or three times as fast: so many heads are walked together that none waits.
  // Of those that are turned there are enough to fill the multiprocessors at the end. All by the
  // shapes only: the order of sums depends on it.
  const int heads = p.B * p.H, tiles = ceil_div_int(p.S, kQueries),
            group = ceil_div_int(256, tiles);
  const int turned = heads - std::min(2 * group, heads / 2);
  const Parameters parameters{.q = map_of(x.q, p.B, p.H, p.S, kQueries, 64),
                              .k = map_of(x.k, p.B, p.H, p.Sk, kKeys, 32),
                              .v = map_of(x.v, p.B, p.H, p.Sk, kKeys, 64),
                              .dout = map_of(x.dout, p.B, p.H, p.S, kQueries, 64),
                              .dq = data(x.dq),
                              .dk = data(x.dk),
                              .dv = data(x.dv),
                              .dq_token = x.dq.token,
                              .dq_head = x.dq.head,
                              .dk_token = x.dk.token,
                              .dk_head = x.dk.head,
                              .dv_token = x.dv.token,
                              .dv_head = x.dv.head,
                              .stats = stats,
                              .sums = reinterpret_cast<float*>(memory + parts.sums),
                              .turns = turns,
                              .ticket = ticket,
                              .first_key = p.first_key,
                              .B = p.B,
                              .H = p.H,
                              .S = p.S,
                              .Sk = p.Sk,
                              .chunk_start = p.chunk_start,
                              .width_qk = x.q.width,
                              .width_v = x.v.width,
                              .together = p.S == p.Sk ? 1 : std::min(group, turned),
                              .turned = turned,
                              .scale = p.scale,
                              .documents = p.documents,
                              .accumulate = x.accumulate};
  constexpr int kBytes = Shared<Dqk, Dv>::kBytes;
  const auto kernel = backward_kernel<Dqk, Dv>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int64_t blocks = int64_t{p.B} * p.H * ceil_div_int(p.Sk, kKeys);
  kernel<<<static_cast<unsigned>(std::min<int64_t>(blocks, p.multiprocessors)), kThreads, kBytes,
           p.stream>>>(parameters);
}

}  // namespace
}  // namespace backward

void launch(const BackwardArguments& x) {
  visit_widths(x.q.width, x.v.width, [&]<int Dqk, int Dv>() { backward::start<Dqk, Dv>(x); });
}

}  // namespace nereus::ops::cuda::hopper
