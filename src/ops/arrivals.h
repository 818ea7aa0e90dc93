// The order of the rows that arrive from several ranks for this rank's experts.
//
// Rank r has sorted its rows by expert: those of expert e are [offsets[r, e], offsets[r, e + 1]).
// Experts [first, first + E) live here. Rows arrive sorted by sender, and each sender's rows by
// expert. The experts need them sorted by expert, then sender, then the sender's order, which is
// the order of one rank with all tokens.
//
//   arrivals:  local_offsets[i]  = first row of expert first + i
//              row_of_arrival[a] = row of the a-th arrival;  arrival_of_row: the reverse
//
// Entries beyond the arrivals are not written.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct Arrivals {
  TensorView row_of_arrival;  // i32 [R, 1]
  TensorView arrival_of_row;  // i32 [R]
  TensorView local_offsets;   // i32 [E + 1]
  ConstTensorView offsets;    // i32 [P, all experts + 1], of P ranks
  int64_t first = 0;          // expert
};

NEREUS_OP(arrivals, Arrivals)

}  // namespace nereus::ops
