// Moves rows between token order here and expert order on the ranks that have the experts, whose
// memory this rank sees: ops/permute.h with the experts' rows on several ranks, in one pass over
// them. The caller places barriers of the ranks before and after.
//
// P ranks; rank r has experts [r E, (r + 1) E) and R rows for them, which lie by expert, then by
// sender, then in the sender's order: the order that one rank with all tokens would have. A slot is
// a (token, choice) pair.
//
//   peer_plan:     place[t,k] = the rank of expert ids[t,k], and the slot's row there; rank -1 when
//                  that is row R or more: over capacity: the slot goes nowhere, and
//                  wanted[0] = max(wanted[0], the rows that the fullest rank wants)
//                  local_offsets[i] = first row of this rank's expert i, at most R
//   peer_permute:  rows[place[t,k]] = x[t] (* weights[t,k] with `weigh`);
//                  row_weights[place[t,k]] = weights[t,k], where these are given
//   peer_combine:  out[t] = addend[t] + sum_k rows[place[t,k]] (* weights[t,k] when given)
//                  in f32, in order of k, addend (optional) last, rounded once;
//                  scalars[t,k] = row_scalars[place[t,k]], where these are given
//   peer_dot:      out[t,k] = rows[place[t,k]] . x[t]      in f32
//
// A slot that goes nowhere counts as zeros. Activations f32 or bf16.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

// One tensor on each rank, of this shape, at the same distance from where the rank's memory begins.
struct PeerTensor {
  ConstTensorView bases;  // i64 [P]: addresses of the ranks' memory (comm/window.h)
  int64_t offset = 0;     // bytes from there
  DType dtype = DType::f32;
  Shape shape;
};
inline bool given(const PeerTensor& t) { return t.shape.rank() > 0; }

struct PeerPlan {
  TensorView place;             // i32 [T, K, 2]: rank, row
  TensorView local_offsets;     // i32 [E + 1]
  TensorView first_row;         // i32 [P * E]: where this rank's rows of an expert begin (scratch)
  TensorView wanted = {};       // i64 [1], optional
  ConstTensorView ids;          // i32 [T, K]
  ConstTensorView row_of_slot;  // i32 [T, K], of permute_plan
  ConstTensorView offsets;      // i32 [P, P * E + 1]: every rank's, of permute_plan
  int64_t rank = 0;
  int64_t rows = 0;  // R
};

struct PeerPermute {
  PeerTensor rows;               // [R, D]
  PeerTensor row_weights = {};   // f32 [R], optional
  ConstTensorView x;             // [T, D]
  ConstTensorView weights = {};  // f32 [T, K]; for row_weights and `weigh`
  ConstTensorView place;         // i32 [T, K, 2]
  bool weigh = false;
};

struct PeerCombine {
  TensorView out;                // [T, D]
  TensorView scalars = {};       // f32 [T, K], optional
  PeerTensor rows;               // [R, D]
  PeerTensor row_scalars = {};   // f32 [R], with scalars
  ConstTensorView place;         // i32 [T, K, 2]
  ConstTensorView weights = {};  // f32 [T, K], optional
  ConstTensorView addend = {};   // [T, D], optional; may alias out
};

struct PeerDot {
  TensorView out;         // f32 [T, K]
  PeerTensor rows;        // [R, D]
  ConstTensorView x;      // [T, D]
  ConstTensorView place;  // i32 [T, K, 2]
};

NEREUS_OP(peer_plan, PeerPlan)
NEREUS_OP(peer_permute, PeerPermute)
NEREUS_OP(peer_combine, PeerCombine)
NEREUS_OP(peer_dot, PeerDot)

}  // namespace nereus::ops
