// What the backward pass of attention_hopper.h keeps beside its arguments, in bytes from the start
// of its workspace. Also for machines without a GPU, which plan for one.
#pragma once

#include <cstdint>

namespace nereus::ops::hopper {

// The widths of q's heads that there are kernels for; the narrowest that fits is taken.
constexpr int64_t kernel_width(int64_t width_qk, int64_t width_v) {
  if (width_qk <= 64 && width_v <= 64) return 64;
  return width_qk <= 128 ? 128 : 192;
}

// Of `heads` heads, those of all rows, and S queries a row, in tiles of 64.
struct BackwardWorkspace {
  static constexpr int64_t kTile = 64, kStatBytes = 3 * kTile * 4;
  int64_t stats, sums, turns, ticket, bytes;
  constexpr BackwardWorkspace(int64_t heads, int64_t S, int64_t width) {
    const int64_t tiles = heads * ((S + kTile - 1) / kTile);
    stats = 0;                                    // f32: lse, delta, first key of each query
    sums = stats + tiles * kStatBytes;            // f32: dq / scale
    turns = sums + tiles * kTile * width * 4;     // i32 a tile
    ticket = turns + (tiles * 4 + 15) / 16 * 16;  // i32
    bytes = ticket + 16;
  }
};

}  // namespace nereus::ops::hopper
