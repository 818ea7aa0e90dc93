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
  int together;  // heads whose blocks of keys take turns
  int turned;    // the first of the heads that are walked the other way; see work_of
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
  static constexpr int kSlots = 4;                // of work: the blocks before's, and the next
  using Registers =
      std::conditional_t<Dqk == 192, hopper::Registers<24, 240>, hopper::Registers<40, 232>>;
  static constexpr int k = 0, v = k + kK, q = v + kV, dout = q + kStages * kQ, ds = dout + kO,
                       dq = ds + 2 * kDs, stats = dq + 2 * kDq,
                       barriers = stats + kStages * kStatBytes;
  static constexpr int k_full = barriers, k_empty = k_full + 8, v_full = k_empty + 8,
                       v_empty = v_full + 8, q_full = v_empty + 8, q_empty = q_full + 8 * kStages,
                       dout_full = q_empty + 8 * kStages, dout_empty = dout_full + 8,
                       work_full = dout_empty + 8, work_empty = work_full + 8 * kSlots,
                       part_full = work_empty + 8 * kSlots, part_free = part_full + 16,
                       draw = part_free + 8, part_kind = draw + 8,
                       work = (part_kind + 8 + 15) / 16 * 16, kBytes = work + 16 * kSlots;
};

// Named barriers: the two multiplying warpgroups; from kAdded on, one for each warpgroup and parity
// of tiles, with the warp that keeps the turns of such tiles.
constexpr int kExchange = 1, kAdded = 2;
constexpr int kKeepers = 2;  // warps
constexpr int kDone = -1;    // instead of a block of keys: no more work

// A block of keys of a head, and the tiles of queries that see some of it, in the order in which it
// goes through them. A number below 0 stands for a tile of a head that is walked from the last
// queries to the first: -1 for tile 0.
struct Work {
  int block, head, begin, end;
};
__device__ inline int tile_of(int walked) { return walked < 0 ? ~walked : walked; }

// The last and the first block of keys that a tile's queries see.
__device__ inline int last_block(const Parameters& a, int tile) {
  return (a.chunk_start + min(tile * kQueries + kQueries, a.S) - 1) / kKeys;
}
__device__ inline int first_block(const Parameters& a, int head, int tile) {
  if (!a.documents) return 0;
  const int b = head / a.H;
  return (a.first_key[int64_t{b} * a.S + tile * kQueries] - b * a.Sk) / kKeys;
}

// The work of a ticket. All lanes of a warp call it.
//
// Heads one after the other, `together` at a time, of a head the last keys first: a tile's sum then
// goes from its queries' own block down to the first. Under a causal mask no block waits so: each
// starts at its own queries, which nobody has to reach before it. But the last to start has most to
// do, so at the end of the work multiprocessors would idle: the heads from `turned` on are walked
// the other way, the first keys and the last queries first, and summed from the first block up.
__device__ Work work_of(int ticket, const Parameters& a, int lane) {
  const int blocks = ceil_div_int(a.Sk, kKeys), tiles = ceil_div_int(a.S, kQueries);
  const bool turned = ticket >= a.turned * blocks;
  const int first = turned ? a.turned : ticket / (a.together * blocks) * a.together;
  const int count = turned ? a.B * a.H - first : min(a.together, a.turned - first);
  const int rest = ticket - first * blocks;
  if (rest >= count * blocks) return {kDone, 0, 0, 0};
  const int head = first + rest % count;
  const int block = turned ? rest / count : blocks - 1 - rest / count;
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
  if (turned) return {block, head, -low, -begin};
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

// One number of the work in a slot, read anew each time for want of registers: 0 block, 1 head, 2
// begin, 3 end.
template <int i>
__device__ inline int work_at(uint32_t slot) {
  int x;
  asm volatile("ld.volatile.shared.s32 %0, [%1];\n" : "=r"(x) : "r"(slot + 4 * i) : "memory");
  return x;
}

// The warp that draws work, when the copying thread asks for it: two tiles before the end of the
// last, so that its way to memory and back is not waited for, and no sooner, since others may come
// to be idle.
template <int Dqk, int Dv>
__device__ void draw_work(const Parameters& a, uint32_t memory, int lane) {
  using M = Shared<Dqk, Dv>;
  for (uint32_t n = 0;; ++n) {
    if (n > 0) wait(memory + M::draw, (n & 1) ^ 1);
    int ticket = 0;
    if (lane == 0) ticket = atomicAdd(a.ticket, 1);
    const Work w = work_of(__shfl_sync(0xffffffffu, ticket, 0), a, lane);
    if (lane == 0) {
      const uint32_t slot = n % M::kSlots;
      wait(memory + M::work_empty + 8 * slot, (n / M::kSlots & 1) ^ 1);
      asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};\n" ::"r"(memory + M::work + 16 * slot),
                   "r"(w.block), "r"(w.head), "r"(w.begin), "r"(w.end)
                   : "memory");
      arrive(memory + M::work_full + 8 * slot);
    }
    if (w.block < 0) return;
    __syncwarp();
  }
}

// The copying thread.
template <int Dqk, int Dv>
__device__ void copy_tiles(const Parameters& a, uint32_t memory) {
  using M = Shared<Dqk, Dv>;
  const int tiles = ceil_div_int(a.S, kQueries);
  uint32_t at = 0;
  for (uint32_t n = 0;; ++n) {
    const uint32_t slot = memory + M::work + 16 * (n % M::kSlots);
    wait(memory + M::work_full + 8 * (n % M::kSlots), n / M::kSlots & 1);
    int block = work_at<0>(slot);  // until its keys and values are on their way
    if (block < 0) return;
    const int h = work_at<1>(slot) % a.H, b = work_at<1>(slot) / a.H;
    const auto keys = [&](bool some) {
      wait(memory + M::v_empty, (n & 1) ^ 1);
      arrive_expecting(memory + M::v_full, some ? M::kV : 0);
      if (some) {
#pragma unroll
        for (int i = 0; i < Dv / 64; ++i)
          copy_box(memory + M::v + i * M::kVBlock, a.v, memory + M::v_full, 64 * i, block * kKeys,
                   h, b);
      }
      wait(memory + M::k_empty, (n & 1) ^ 1);
      arrive_expecting(memory + M::k_full, some ? M::kK : 0);
      if (some) {
#pragma unroll
        for (int i = 0; i < Dqk / 32; ++i)
          copy_box(memory + M::k + i * M::kKBlock, a.k, memory + M::k_full, 32 * i, block * kKeys,
                   h, b);
      }
      block = kDone;
    };
    if (work_at<2>(slot) == work_at<3>(slot)) {
      arrive(memory + M::draw);
      keys(false);
    }
    for (int walked = work_at<2>(slot); walked < work_at<3>(slot); ++walked, ++at) {
      const int left = work_at<3>(slot) - walked;
      if (left == 2 || (left == 1 && block >= 0)) arrive(memory + M::draw);
      const int tile = tile_of(walked);
      const uint32_t stage = at % M::kStages;
      uint32_t full = memory + M::q_full + 8 * stage;
      wait(memory + M::q_empty + 8 * stage, (at / M::kStages & 1) ^ 1);
      arrive_expecting(full, M::kQ + kStatBytes);
#pragma unroll
      for (int i = 0; i < Dqk / 64; ++i)
        copy_box(memory + M::q + stage * M::kQ + i * M::kQBlock, a.q, full, 64 * i, tile * kQueries,
                 h, b);
      copy_bytes(memory + M::stats + stage * kStatBytes,
                 a.stats + int64_t{(b * a.H + h) * tiles + tile} * (kStatBytes / 4), kStatBytes,
                 full);
      full = memory + M::dout_full;
      wait(memory + M::dout_empty, (at & 1) ^ 1);
      arrive_expecting(full, M::kO);
#pragma unroll
      for (int i = 0; i < Dv / 64; ++i)
        copy_box(memory + M::dout + i * M::kQBlock, a.dout, full, 64 * i, tile * kQueries, h, b);
      // The block before lets go of its values and keys last.
      if (block >= 0) keys(true);
    }
    arrive(memory + M::work_empty + 8 * (n % M::kSlots));
  }
}

// What a block does with its part of a tile's dq: it begins the sum, goes into it, is the last of
// it, or the only one.
enum PartKind { kBegins, kAdds, kFinishes, kIsAll };

// The number of a tile among all heads'.
__device__ inline int64_t number_of(const Parameters& a, uint32_t slot, int tile) {
  return int64_t{work_at<1>(slot)} * ceil_div_int(a.S, kQueries) + tile;
}
// Tells the multiplying warpgroups what becomes of their part; with the sum so far, if that is to
// come to where parts are handed over.
template <class M>
__device__ inline void post_part(uint32_t memory, uint32_t parity, PartKind kind,
                                 const float* sum = nullptr) {
  const uint32_t full = memory + M::part_full + 8 * parity;
  asm volatile("st.shared.s32 [%0], %1;\n" ::"r"(memory + M::part_kind + 4 * parity),
               "r"(static_cast<int>(kind))
               : "memory");
  if (sum != nullptr) {
    arrive_expecting(full, 2 * M::kDq);
    copy_bytes(memory + M::dq, sum, 2 * M::kDq, full);
  } else {
    arrive(full);
  }
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
    const uint32_t slot = memory + M::work + 16 * (n % M::kSlots);
    wait(memory + M::work_full + 8 * (n % M::kSlots), n / M::kSlots & 1);
    if (work_at<0>(slot) < 0) return;
    for (int walked = work_at<2>(slot) + static_cast<int>(first); walked < work_at<3>(slot);
         walked += 2) {
      const int tile = tile_of(walked);
      // Blocks that are to have added before, and behind.
      int before = last_block(a, tile) - work_at<0>(slot),
          behind = work_at<0>(slot) - first_block(a, work_at<1>(slot), tile);
      if (walked < 0) {
        const int others = before;
        before = behind;
        behind = others;
      }
      const PartKind kind =
          behind == 0 ? (before == 0 ? kIsAll : kFinishes) : (before == 0 ? kBegins : kAdds);
      if (lane == 0) {
        if (kind <= kAdds) post_part<M>(memory, parity, kind);
        await_turn(a.turns + number_of(a, slot, tile), before);
        if (kind == kIsAll) post_part<M>(memory, parity, kind);
        if (kind == kFinishes) {
          wait(memory + M::part_free, parity ^ 1);
          memory_before_copies();
          post_part<M>(memory, parity, kind, a.sums + number_of(a, slot, tile) * 2 * (M::kDq / 4));
        }
      }
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        __syncwarp();
        sync_threads(kAdded + 2 * static_cast<int>(parity) + group, 128 + 32);
        if (lane == 0 && kind <= kAdds) {
          float* const sum = a.sums + (number_of(a, slot, tile) * 2 + group) * (M::kDq / 4);
          if (kind == kBegins) {
            store_bytes(sum, memory + M::dq + group * M::kDq, M::kDq);
          } else {
            add_floats(sum, memory + M::dq + group * M::kDq, M::kDq);
          }
        }
      }
      if (lane == 0) {
        stores_read();
        arrive(memory + M::part_free);
        if (kind <= kAdds) {
          stores_done();
          __threadfence();
          asm volatile(
              "red.relaxed.gpu.global.add.s32 [%0], 1;\n" ::"l"(a.turns + number_of(a, slot, tile))
              : "memory");
        }
      }
      __syncwarp();
    }
    asm volatile("" : "+r"(n));  // what was made of it does not stay in a register
    first = (first + static_cast<uint32_t>(work_at<3>(slot) - work_at<2>(slot))) & 1;
    __syncwarp();
    if (lane == 0) arrive(memory + M::work_empty + 8 * (n % M::kSlots));
  }
}

}  // namespace nereus::ops::cuda::hopper::backward
