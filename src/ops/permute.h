// Moves rows between token order and expert order. A slot is one (token, choice) pair, numbered
// t * K + k; R = T * K rows.
//
//   permute_plan:  sorts the slots by expert, stably: offsets[e] is the number of slots of experts
//                  below e; row_of_slot and slot_of_row are inverse permutations of [0, R)
//   permute:       rows[row_of_slot[t,k]] = x[t]  (* weights[t,k] when given)
//   combine:       out[t] = addend[t] + sum_k rows[row_of_slot[t,k]]  (* weights[t,k] when given)
//                  in f32, in order of k, addend (optional) last, rounded once
//   row_dot:       out[t,k] = rows[row_of_slot[t,k]] . x[t]      in f32
//   permute_scalars / combine_scalars: out[r] = x[slot_of_row[r]], and its inverse, f32
//
// combine is permute's transpose: each is the other's backward pass. Activations f32 or bf16.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct PermutePlan {
  TensorView row_of_slot;  // i32 [T, K]
  TensorView slot_of_row;  // i32 [T * K]
  TensorView offsets;      // i32 [E + 1]
  ConstTensorView ids;     // i32 [T, K], each in [0, E)
};

struct Permute {
  TensorView rows;               // [R, D]
  ConstTensorView x;             // [T, D]
  ConstTensorView row_of_slot;   // i32 [T, K]
  ConstTensorView weights = {};  // f32 [T, K], optional
};

struct Combine {
  TensorView out;                // [T, D]
  ConstTensorView rows;          // [R, D]
  ConstTensorView row_of_slot;   // i32 [T, K]
  ConstTensorView weights = {};  // f32 [T, K], optional
  ConstTensorView addend = {};   // [T, D], optional; may alias out
};

struct RowDot {
  TensorView out;               // f32 [T, K]
  ConstTensorView rows, x;      // [R, D], [T, D]
  ConstTensorView row_of_slot;  // i32 [T, K]
};

// out[i] = x[index[i]] for f32 scalars: with slot_of_row it takes [T, K] to [R], with row_of_slot
// [R] to [T, K].
struct GatherScalars {
  TensorView out;         // f32, any shape of n elements
  ConstTensorView x;      // f32, n elements
  ConstTensorView index;  // i32, n elements
};

NEREUS_PLANNED_OP(permute_plan, PermutePlan)
NEREUS_OP(permute, Permute)
NEREUS_OP(combine, Combine)
NEREUS_OP(row_dot, RowDot)
NEREUS_OP(gather_scalars, GatherScalars)

}  // namespace nereus::ops
