// Attention's backward pass on Hopper (attention_hopper.h): what a thread block has in shared
// memory, and the warps that do not multiply: one copies, two keep the turns of dq's sums. For
// attention_hopper_backward.cu only.
#pragma once

#include <type_traits>

#include "ops/attention_hopper.cuh"
#include "ops/attention_hopper_workspace.h"

namespace nereus::ops::cuda::hopper::backward {

constexpr int kQueries = ops::hopper::BackwardWorkspace::kTile, kKeys = 128;  // of a tile
constexpr int kStatBytes = ops::hopper::BackwardWorkspace::kStatBytes;

struct Parameters {
  CUtensorMap q, k, v, dout;
  unsigned short *dq, *dk, *dv;
  int64_t dq_token, dq_head, dk_token, dk_head, dv_token, dv_head;
  // Of each head and tile of queries: lse log2(e), delta and first key (of the row), 64 each; a
  // query that does not exist has an lse of infinity, so that its weights are 0.
  const float* stats;
  float* sums;  // of each head and tile: dq / scale, in the order of the threads that make it
  int* turns;   // of each head and tile: blocks of keys that are in the sum
  int* ticket;
  const int* first_key;
  int B, H, S, Sk, chunk_start;
  int width_qk, width_v;
  float scale;
  bool documents, accumulate;
};

template <int Dqk, int Dv>
struct Shared {
  static constexpr int kQBlock = kQueries * 128;  // bytes of 64 rows of 64 elements
  static constexpr int kQ = Dqk / 64 * kQBlock, kO = Dv / 64 * kQBlock;
  static constexpr int kKBlock = kKeys * 64, kVBlock = kKeys * 128;  // 32 elements of k, 64 of v
  static constexpr int kK = Dqk / 32 * kKBlock, kV = Dv / 64 * kVBlock, kDs = kKeys * 128;
  static constexpr int kDq = kQueries * Dqk * 2;  // of a warpgroup: half of the columns, in f32
  static constexpr int kStages = 2;               // of q
  using Registers =
      std::conditional_t<Dqk == 192, hopper::Registers<24, 240>, hopper::Registers<40, 232>>;
  static constexpr int k = 0, v = k + kK, q = v + kV, dout = q + kStages * kQ, ds = dout + kO,
                       dq = ds + 2 * kDs, stats = dq + 2 * kDq,
                       barriers = stats + kStages * kStatBytes;
  static constexpr int kv_full = barriers, kv_empty = kv_full + 8, q_full = kv_empty + 8,
                       q_empty = q_full + 8 * kStages, dout_full = q_empty + 8 * kStages,
                       dout_empty = dout_full + 8, work_full = dout_empty + 8,
                       work_empty = work_full + 16, part_full = work_empty + 16,
                       part_free = part_full + 16, part_kind = part_free + 16,
                       work = (part_kind + 8 + 15) / 16 * 16, kBytes = work + 32;
};

// Named barriers: the two multiplying warpgroups; from kAdded on, one for each warpgroup and parity
// of tiles, with the warp that keeps the turns of such tiles.
constexpr int kExchange = 1, kAdded = 2;
constexpr int kKeepers = 2;  // warps
constexpr int kDone = -1;    // instead of a block of keys: no more work

// A block of keys of a head, and the tiles of queries that see some of it.
struct Work {
  int block, head, begin, end;
};

// The last and the first block of keys that a tile's queries see.
__device__ inline int last_block(const Parameters& a, int tile) {
  return (a.chunk_start + min(tile * kQueries + kQueries, a.S) - 1) / kKeys;
}
__device__ inline int first_block(const Parameters& a, int head, int tile) {
  if (!a.documents) return 0;
  const int b = head / a.H;
  return (a.first_key[int64_t{b} * a.S + tile * kQueries] - b * a.Sk) / kKeys;
}

// Heads one after the other, of a head the last keys first. All lanes of a warp call it.
__device__ Work work_of(int ticket, const Parameters& a, int lane) {
  const int blocks = ceil_div_int(a.Sk, kKeys), tiles = ceil_div_int(a.S, kQueries);
  const int head = ticket / blocks, block = blocks - 1 - ticket % blocks;
  if (head >= a.B * a.H) return {kDone, 0, 0, 0};
  const int key = block * kKeys - a.chunk_start;  // the first query that sees the block's first key
  if (key >= a.S) return {block, head, 0, 0};
  const int begin = max(key, 0) / kQueries;
  int low = begin, high = tiles;
  if (a.documents) {  // the first tile that starts beyond the block: bounds ascend
    while (low < high) {
      const int step = (high - low + 31) / 32, i = low + lane * step;
      const unsigned beyond =
          __ballot_sync(0xffffffffu, i < high && first_block(a, head, i) > block);
      if (beyond == 0) {
        low += (high - 1 - low) / step * step + 1;
      } else {
        const int n = __ffs(static_cast<int>(beyond)) - 1;
        high = low + n * step;
        if (n > 0) low = high - step + 1;
      }
    }
  } else {
    low = tiles;
  }
  return {block, head, begin, low};
}

__device__ inline Work read_work(uint32_t slot) {
  Work w;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(w.block), "=r"(w.head), "=r"(w.begin), "=r"(w.end)
               : "r"(slot)
               : "memory");
  return w;
}

// The copying warp.
template <int Dqk, int Dv>
__device__ void copy_tiles(const Parameters& a, uint32_t memory, int lane) {
  using M = Shared<Dqk, Dv>;
  const int tiles = ceil_div_int(a.S, kQueries);
  uint32_t at = 0;
  for (uint32_t n = 0;; ++n) {
    int ticket = 0;
    if (lane == 0) ticket = atomicAdd(a.ticket, 1);
    const Work w = work_of(__shfl_sync(0xffffffffu, ticket, 0), a, lane);
    if (lane == 0) {
      wait(memory + M::work_empty + 8 * (n & 1), (n >> 1 & 1) ^ 1);
      asm volatile(
          "st.shared.v4.s32 [%0], {%1, %2, %3, %4};\n" ::"r"(memory + M::work + 16 * (n & 1)),
          "r"(w.block), "r"(w.head), "r"(w.begin), "r"(w.end)
          : "memory");
      arrive(memory + M::work_full + 8 * (n & 1));
      if (w.block >= 0) {
        const int h = w.head % a.H, b = w.head / a.H;
        wait(memory + M::kv_empty, (n & 1) ^ 1);
        arrive_expecting(memory + M::kv_full, M::kK + M::kV);
#pragma unroll
        for (int i = 0; i < Dqk / 32; ++i)
          copy_box(memory + M::k + i * M::kKBlock, a.k, memory + M::kv_full, 32 * i,
                   w.block * kKeys, h, b);
#pragma unroll
        for (int i = 0; i < Dv / 64; ++i)
          copy_box(memory + M::v + i * M::kVBlock, a.v, memory + M::kv_full, 64 * i,
                   w.block * kKeys, h, b);
        for (int tile = w.begin; tile < w.end; ++tile, ++at) {
          const uint32_t q_stage = at % M::kStages;
          uint32_t full = memory + M::q_full + 8 * q_stage;
          wait(memory + M::q_empty + 8 * q_stage, (at / M::kStages & 1) ^ 1);
          arrive_expecting(full, M::kQ + kStatBytes);
#pragma unroll
          for (int i = 0; i < Dqk / 64; ++i)
            copy_box(memory + M::q + q_stage * M::kQ + i * M::kQBlock, a.q, full, 64 * i,
                     tile * kQueries, h, b);
          copy_bytes(memory + M::stats + q_stage * kStatBytes,
                     a.stats + (int64_t{w.head} * tiles + tile) * (kStatBytes / 4), kStatBytes,
                     full);
          full = memory + M::dout_full;
          wait(memory + M::dout_empty, (at & 1) ^ 1);
          arrive_expecting(full, M::kO);
#pragma unroll
          for (int i = 0; i < Dv / 64; ++i)
            copy_box(memory + M::dout + i * M::kQBlock, a.dout, full, 64 * i, tile * kQueries, h,
                     b);
        }
      }
    }
    if (w.block < 0) return;
    __syncwarp();
  }
}

// What a block does with its part of a tile's dq: it goes into the sum, or is the last of it, or
// the only one.
enum PartKind { kAdds, kFinishes, kIsAll };

// One number of the work in a slot, read anew each time for want of registers: 0 block, 1 head, 2
// begin, 3 end.
template <int i>
__device__ inline int work_at(uint32_t slot) {
  int x;
  asm volatile("ld.volatile.shared.s32 %0, [%1];\n" : "=r"(x) : "r"(slot + 4 * i) : "memory");
  return x;
}
// The number of a tile among all heads'.
__device__ inline int64_t number_of(const Parameters& a, uint32_t slot, int tile) {
  return int64_t{work_at<1>(slot)} * ceil_div_int(a.S, kQueries) + tile;
}
template <class M>
__device__ inline void post_part(uint32_t memory, uint32_t parity, PartKind kind) {
  asm volatile("st.shared.s32 [%0], %1;\n" ::"r"(memory + M::part_kind + 4 * parity),
               "r"(static_cast<int>(kind))
               : "memory");
  arrive(memory + M::part_full + 8 * parity);
}
__device__ inline void await_turn(const int* turn, int mine) {
  int now = 0;
#ifdef NEREUS_TRAP_LONG_WAITS
  const uint64_t start = nanoseconds();
#endif
  while (now != mine) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(now) : "l"(turn) : "memory");
#ifdef NEREUS_TRAP_LONG_WAITS
    if (nanoseconds() - start > kLongestWait) __trap();
#endif
  }
}

// The warps that keep the turns, each of every second tile: they add to dq's sums what the
// multiplying warpgroups put into shared memory, when those before have added, and tell the next.
template <int Dqk, int Dv>
__device__ void keep_turns(const Parameters& a, uint32_t memory, uint32_t parity, int lane) {
  using M = Shared<Dqk, Dv>;
  uint32_t first = parity;  // of the block's tiles the first of this parity
  for (uint32_t n = 0;; ++n) {
    const uint32_t slot = memory + M::work + 16 * (n & 1);
    wait(memory + M::work_full + 8 * (n & 1), n >> 1 & 1);
    if (work_at<0>(slot) < 0) return;
    for (int tile = work_at<2>(slot) + static_cast<int>(first); tile < work_at<3>(slot);
         tile += 2) {
      const int mine = last_block(a, tile) - work_at<0>(slot);
      PartKind kind = kAdds;
      if (first_block(a, work_at<1>(slot), tile) == work_at<0>(slot))
        kind = mine > 0 ? kFinishes : kIsAll;
      if (lane == 0) {
        if (kind == kAdds) post_part<M>(memory, parity, kind);
        await_turn(a.turns + number_of(a, slot, tile), mine);
        if (kind != kAdds) post_part<M>(memory, parity, kind);
      }
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        __syncwarp();
        sync_threads(kAdded + 2 * static_cast<int>(parity) + group, 128 + 32);
        if (lane == 0 && kind == kAdds) {
          float* const sum = a.sums + (number_of(a, slot, tile) * 2 + group) * (M::kDq / 4);
          if (mine == 0) {
            store_bytes(sum, memory + M::dq + group * M::kDq, M::kDq);
          } else {
            add_floats(sum, memory + M::dq + group * M::kDq, M::kDq);
          }
        }
      }
      if (lane == 0) {
        stores_read();
        arrive(memory + M::part_free);
        if (kind == kAdds) {
          stores_done();
          __threadfence();
          asm volatile(
              "red.relaxed.gpu.global.add.s32 [%0], 1;\n" ::"l"(a.turns + number_of(a, slot, tile))
              : "memory");
        }
      }
      __syncwarp();
    }
    first = (first + static_cast<uint32_t>(work_at<3>(slot) - work_at<2>(slot))) & 1;
    __syncwarp();
    if (lane == 0) arrive(memory + M::work_empty + 8 * (n & 1));
  }
}

}  // namespace nereus::ops::cuda::hopper::backward
