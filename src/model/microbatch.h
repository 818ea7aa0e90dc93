// What every stage of a pipeline knows of a microbatch: T tokens in rows of `sequence`.
//
// Under context parallelism a rank has two chunks of every sequence, as many from its head as from
// its tail: its T tokens are the first chunk of all sequences, then the second (zig-zag, as
// PyTorch's context parallelism has it). Attention sees all of a sequence's keys, in its own order.
#pragma once

#include <array>

#include "ops/attention.h"
#include "ops/router.h"

namespace nereus {

struct Microbatch {
  ConstTensorView ids;                 // i32 [T]
  ConstTensorView labels;              // i32 [T]; negative: ignored
  ConstTensorView positions;           // i32 [T]
  ConstTensorView first_key;           // i32 [T], see ops/attention.h
  int64_t first_row = 0;               // of its rows, in the step's global batch
  int64_t sequence = 0;                // tokens a row
  int64_t key_sequence = 0;            // keys a row, under context parallelism; 0: the row's own
  ConstTensorView key_positions = {};  // i32 [keys], under context parallelism
  int chunks = 1;                      // of rows
  std::array<int64_t, 2> chunk_start{0, 0};  // by chunk: the key of a row's first query
  ops::AttentionMask mask = ops::AttentionMask::causal;
  float loss_scale = 1;  // of each token's loss: 1 / (tokens of the global batch)
  bool training = true;  // false: loss only, no gradients follow, expert load is not counted

  int64_t tokens() const { return ids.dim(0); }
  // Of the tokens from `first` on, as tensor parallelism divides them.
  ops::TokenPlaces places(int64_t first) const {
    return {.first = first,
            .first_row = first_row,
            .rows = tokens() / (sequence * chunks),
            .sequence = key_sequence > 0 ? key_sequence : sequence,
            .run = sequence,
            .start = {chunk_start[0], chunk_start[1]}};
  }
};

}  // namespace nereus
