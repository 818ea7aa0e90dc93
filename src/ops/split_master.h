// An f32 master weight in two parts of 16 bits: the bf16 copy that kernels read, and the remainder.
//
//   copy = x rounded to bf16, to nearest even
//   d    = bits(x) - bits(copy as f32), both taken as integers: -2^15 <= d <= 2^15
//   remainder = d modulo 2^16, as i16
//
// A tie is rounded to the even neighbour from both sides. An even copy therefore stands for 2^16 +
// 1 master values, one more than 16 bits can distinguish: d = 2^15 and d = -2^15 have the same
// remainder. The missing bit is stored in the sign of AdamW's second moment, which is never
// negative itself: v is stored as -v (or as -0) when d = 2^15. Readers of v take |v|.
//
// join_master restores every x bit for bit, including infinities and values that round to infinity.
// A NaN is restored as some NaN. All tensors are contiguous and have n elements.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct SplitMaster {
  TensorView copy, remainder;  // bf16, i16
  TensorView v;                // f32 or bf16: its signs are written
  ConstTensorView x;           // f32
};

struct JoinMaster {
  TensorView x;                        // f32
  ConstTensorView copy, remainder, v;  // as above
};

NEREUS_OP(split_master, SplitMaster)
NEREUS_OP(join_master, JoinMaster)

}  // namespace nereus::ops
