// The ops between the projections of multi-head latent attention and the attention itself
// (DeepSeek-V2, arXiv 2405.04434, section 2.1): rotary embedding of q's and k's rotary parts and
// assembly of k.
//
// H heads, N = no-position ("nope") width, R rotary width (even). Rotary pairs are adjacent
// elements: with c = cos[p,i], s = sin[p,i] and p = positions[t],
//
//   rope(x)[2i] = x[2i] c - x[2i+1] s        rope(x)[2i+1] = x[2i] s + x[2i+1] c
//
//   mla_assemble:           q[t,h,N:] = rope(q[t,h,N:]) in place
//                           k[t,h]    = [k_nope[t,h], rope(k_pe[t])]
//   mla_assemble_backward:  dq[t,h,N:]   = rope^-1(dq[t,h,N:]) in place
//                           dk_nope[t,h] = dk[t,h,:N]
//                           dk_pe[t]     = rope^-1(sum_h dk[t,h,N:])
//
// R is at most 2048. Activations f32 or bf16, all of one type; rotation and the sum over heads (in
// an order that depends on the shapes only) in f32.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct MlaAssemble {
  TensorView q = {};          // [T, H, N + R], in place; optional
  TensorView k;               // [T, H, N + R]
  ConstTensorView k_nope;     // [T, H, N], strided: part of kv's rows
  ConstTensorView k_pe;       // [T, R], strided
  ConstTensorView cos, sin;   // f32 [P, R / 2]
  ConstTensorView positions;  // i32 [T], each < P
};

struct MlaAssembleBackward {
  TensorView dq = {};         // [T, H, N + R], in place; optional
  TensorView dk_nope;         // [T, H, N], strided
  TensorView dk_pe;           // [T, R], strided
  ConstTensorView dk;         // [T, H, N + R]
  ConstTensorView cos, sin;   // f32 [P, R / 2]
  ConstTensorView positions;  // i32 [T]
};

// x = rope(x) in place, or the rotation back: queries whose tokens are not those of the keys.
struct RotateHeads {
  TensorView x;               // [T, H, R], strided
  ConstTensorView cos, sin;   // f32 [P, R / 2]
  ConstTensorView positions;  // i32 [T]
  bool back = false;
};

NEREUS_OP(rotate_heads, RotateHeads)
NEREUS_OP(mla_assemble, MlaAssemble)
NEREUS_OP(mla_assemble_backward, MlaAssembleBackward)

}  // namespace nereus::ops
