// What every stage of a pipeline knows of a microbatch: T tokens in rows of `sequence`.
#pragma once

#include "ops/attention.h"

namespace nereus {

struct Microbatch {
  ConstTensorView ids;        // i32 [T]
  ConstTensorView labels;     // i32 [T]; negative: ignored
  ConstTensorView positions;  // i32 [T]
  ConstTensorView first_key;  // i32 [T], see ops/attention.h
  int64_t sequence = 0;       // tokens a row
  ops::AttentionMask mask = ops::AttentionMask::causal;
  float loss_scale = 1;  // of each token's loss: 1 / (tokens of the microbatch * microbatches)
  bool training = true;  // false: loss only, no gradients follow, expert load is not counted

  int64_t tokens() const { return ids.dim(0); }
};

}  // namespace nereus
