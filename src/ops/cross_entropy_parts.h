// Cross entropy where a rank has some columns of the logits: a vocabulary divided over ranks (loss
// parallel). In two halves, between which the ranks exchange the statistics of their parts:
//
//   cross_entropy_stats:  of each row of this part: top = max_v x[v], sum = sum_v exp(x[v] - top),
//                         and the label's logit (0 when the label is in another part)
//   cross_entropy_join:   with all parts' statistics, in order of the parts, what
//                         ops/cross_entropy.h says of the whole row: nll, and this part of the
//                         gradient in place of its logits
//
// Column v of this part is v + first of the row. Arithmetic f32.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct CrossEntropyStats {
  TensorView stats;        // f32 [3, T]: top, sum, the label's logit
  ConstTensorView logits;  // [T, V]
  ConstTensorView labels;  // i32 [T], of the whole row; negative: ignored
  int64_t first = 0;
};

struct CrossEntropyJoin {
  TensorView logits;       // [T, V], in place
  TensorView nll;          // f32 [T]
  ConstTensorView stats;   // f32 [P, 3 * T], of P parts
  ConstTensorView labels;  // i32 [T]
  int64_t first = 0;
  float scale = 1;
  bool loss_only = false;  // leaves the logits as they are
};

NEREUS_OP(cross_entropy_stats, CrossEntropyStats)
NEREUS_OP(cross_entropy_join, CrossEntropyJoin)

}  // namespace nereus::ops
