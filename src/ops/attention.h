// Softmax attention of packed rows, causal or causal within documents.
//
// T = B * S tokens: B sequences of S. Token t sees the keys first_key[t] .. t, all of its own
// sequence (causal: first_key[t] is the sequence's first token; with documents, the first token of
// t's document). With P[t,j] over those keys,
//
//   P[t,j] = softmax_j(scale * q[t] . k[j])       o[t] = sum_j P[t,j] v[j]
//   lse[t,h] = log sum_j exp(scale * q[t] . k[j])
//
//   with dP[t,j] = do[t] . v[j] and delta[t] = do[t] . o[t]:
//   dS = P * (dP - delta)    dq[t] = scale sum_j dS[t,j] k[j]    dk[j] = scale sum_t dS[t,j] q[t]
//   dv[j] = sum_t P[t,j] do[t]
//
// There may be more keys than queries (context parallelism: a rank has some queries of each
// sequence and all keys): with key_sequence = Sk, k and v have B * Sk tokens, the query with index
// i in its row is that of key chunk_start + i, and first_key counts keys. What is said above of t
// then holds for that key.
//
// H heads, Dqk and Dv widths. Activations f32 or bf16, all of one type, with token and head
// strides; lse and delta are f32 without gaps; sums are f32. No S x S matrix of a head ever exists
// as a whole. The order of sums depends on the shapes only, unless `unordered` asks for a faster
// kernel that some devices have.
//
// On a GPU bf16 goes through our own kernels for Hopper where it is one (attention_hopper.h), else
// through cuDNN (attention_cudnn.h), else through attention_flash.h; all else through plain
// kernels.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

enum class AttentionMask { causal, document };

// Widest head that a GPU's kernels take; the CPU's take any.
inline constexpr int64_t kMostGpuHead = 256;

// Throws Error{kConfig} for heads that are wider.
void check_head_of_gpu(int64_t width_qk, int64_t width_v);

// Which kernels a GPU's attention goes through.
struct AttentionKernels {
  bool cudnn = false;      // cuDNN's where it has some, also on a GPU that our own are for
  bool unordered = false;  // of cuDNN's backward passes the one with sums in any order
};

struct AttentionForward {
  TensorView o;               // [T, H, Dv]
  TensorView lse;             // f32 [B, H, S]
  ConstTensorView q, k;       // [T, H, Dqk], [Tk, H, Dqk]
  ConstTensorView v;          // [Tk, H, Dv]
  ConstTensorView first_key;  // i32 [T]
  int64_t sequence = 0;       // S
  float scale = 0;
  AttentionMask mask = AttentionMask::causal;  // causal promises that first_key is t - t % S
  AttentionKernels kernels = {};
  int64_t key_sequence = 0, chunk_start = 0;  // key_sequence 0: S
};

struct AttentionBackward {
  TensorView dq, dk;          // [T, H, Dqk], [Tk, H, Dqk]
  TensorView dv;              // [Tk, H, Dv]
  TensorView delta;           // f32 [B, H, S], workspace
  ConstTensorView dout, o;    // [T, H, Dv]
  ConstTensorView lse;        // f32 [B, H, S]
  ConstTensorView q, k;       // [T, H, Dqk], [Tk, H, Dqk]
  ConstTensorView v;          // [Tk, H, Dv]
  ConstTensorView first_key;  // i32 [T]
  int64_t sequence = 0;
  float scale = 0;
  AttentionMask mask = AttentionMask::causal;
  AttentionKernels kernels = {};
  int64_t key_sequence = 0, chunk_start = 0;
  bool accumulate = false;    // dk and dv are added to; only with key_sequence
  TensorView workspace = {};  // u8 [attention_backward_workspace()], or "no tensor" when that is 0
};

// Keys of a row.
template <class A>
int64_t keys_of_row(const A& a) {
  return a.key_sequence > 0 ? a.key_sequence : a.sequence;
}

// Bytes of workspace for these arguments on the stream's device, or on the GPU that a meta stream
// makes plans for. 0 on a CPU.
int64_t attention_backward_workspace(Stream&, const AttentionBackward&);
namespace cuda {
int64_t attention_backward_workspace(Stream&, const AttentionBackward&);
}

NEREUS_PLANNED_OP(attention_forward, AttentionForward)
NEREUS_PLANNED_OP(attention_backward, AttentionBackward)

// first_key and positions of a microbatch from its token ids: an end-of-document token belongs to
// the document it ends. Positions run from 0 in each sequence and do not restart at documents.
struct DocumentBounds {
  TensorView first_key;                        // i32 [T]
  TensorView positions;                        // i32 [T]
  ConstTensorView ids;                         // i32 [T]
  int64_t sequence = 0;                        // S
  int32_t eos_id = -1;                         // ends a document
  AttentionMask mask = AttentionMask::causal;  // causal ignores eos_id
};

NEREUS_OP(document_bounds, DocumentBounds)

}  // namespace nereus::ops
