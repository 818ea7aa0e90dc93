#include "ops/attention.h"

#include "ops/attention_hopper_workspace.h"
#include "ops/contract.h"

namespace nereus::ops {
namespace {

template <class A>
void check_inputs(const char* op, const A& a) {
  expect_float(op, "q", a.q);
  expect_rank(op, "q", a.q, 3);
  expect_rank(op, "v", a.v, 3);
  const int64_t T = a.q.dim(0), H = a.q.dim(1), Dv = a.v.dim(2);
  expect(op, "q", a.q, a.q.dtype, a.q.shape);
  NEREUS_CHECK(kContract, a.sequence >= 1 && T % a.sequence == 0,
               "{}: {} tokens are not whole sequences of {}", op, T, a.sequence);
  const int64_t keys = T / a.sequence * keys_of_row(a);
  NEREUS_CHECK(kContract, a.chunk_start >= 0 && a.chunk_start + a.sequence <= keys_of_row(a),
               "{}: queries {} to {} of {} keys", op, a.chunk_start, a.chunk_start + a.sequence,
               keys_of_row(a));
  expect(op, "k", a.k, a.q.dtype, {keys, H, a.q.dim(2)});
  expect(op, "v", a.v, a.q.dtype, {keys, H, Dv});
  expect(op, "o", a.o, a.q.dtype, {T, H, Dv});
  expect(op, "first_key", a.first_key, DType::i32, {T});
  expect(op, "lse", a.lse, DType::f32, {T / a.sequence, H, a.sequence});
  expect_contiguous(op, "lse", a.lse);
}

}  // namespace

void check(const AttentionForward& a) { check_inputs("attention_forward", a); }

void check(const AttentionBackward& a) {
  const char* op = "attention_backward";
  check_inputs(op, a);
  expect(op, "dq", a.dq, a.q.dtype, a.q.shape);
  expect(op, "dk", a.dk, a.q.dtype, a.k.shape);
  expect(op, "dv", a.dv, a.q.dtype, a.v.shape);
  expect(op, "dout", a.dout, a.q.dtype, a.o.shape);
  expect(op, "delta", a.delta, DType::f32, a.lse.shape);
  expect_contiguous(op, "delta", a.delta);
}

namespace {

// Of a Hopper GPU, whose own kernels' is known to the byte. What cuDNN 9 asks for is from its own
// figures at 128 heads: an ordered dq needs 2 bytes for each pair of query and key (4.1 GiB at
// 4,096 tokens, 64 GiB at 16,384), of one sequence at a time; in any order an f32 dq of all.
int64_t estimated_workspace(const AttentionBackward& a) {
  if (a.q.dtype != DType::bf16) return 0;
  const bool causal = a.mask == AttentionMask::causal && a.key_sequence == 0;
  if (a.q.dim(2) <= 192 && a.v.dim(2) <= 128 && !(causal && a.kernels.cudnn))
    return hopper::BackwardWorkspace(a.q.dim(0) / a.sequence * a.q.dim(1), a.sequence,
                                     hopper::kernel_width(a.q.dim(2), a.v.dim(2)))
        .bytes;
  if (!causal) return 0;
  const int64_t pairs = a.q.dim(1) * a.sequence;  // of a head and a query
  return a.kernels.unordered ? 4 * a.q.dim(0) * a.q.dim(1) * a.q.dim(2)
                             : pairs * (2 * a.sequence + 205);
}

}  // namespace

void check_head_of_gpu(int64_t width_qk, int64_t width_v) {
  NEREUS_CHECK(kConfig, width_qk <= kMostGpuHead && width_v <= kMostGpuHead,
               "attention heads of {} (queries and keys: qk_nope_head_dim + qk_rope_head_dim) and "
               "{} (values: v_head_dim) on a GPU, whose kernels take up to {}. A narrower head, or "
               "--device.kind=cpu.",
               width_qk, width_v, kMostGpuHead);
}

int64_t attention_backward_workspace(Stream& stream, const AttentionBackward& a) {
  if (stream.on_gpu() || stream.stands_for_gpu()) check_head_of_gpu(a.q.dim(2), a.v.dim(2));
  if (stream.stands_for_gpu() && stream.plans_for() == nullptr) return estimated_workspace(a);
  if constexpr (kHasCuda) {
    Stream* const gpu = stream.on_gpu() ? &stream : stream.plans_for();
    if (gpu != nullptr) return cuda::attention_backward_workspace(*gpu, a);
  }
  return 0;
}

void check(const DocumentBounds& a) {
  const char* op = "document_bounds";
  expect_rank(op, "ids", a.ids, 1);
  expect(op, "ids", a.ids, DType::i32, a.ids.shape);
  expect(op, "first_key", a.first_key, DType::i32, a.ids.shape);
  expect(op, "positions", a.positions, DType::i32, a.ids.shape);
  NEREUS_CHECK(kContract, a.sequence >= 1 && a.ids.dim(0) % a.sequence == 0,
               "{}: {} tokens are not whole sequences of {}", op, a.ids.dim(0), a.sequence);
}

namespace cpu {

void document_bounds(Stream&, const DocumentBounds& a) {
  const int32_t* ids = a.ids.as<int32_t>();
  int32_t *first_key = a.first_key.as<int32_t>(), *positions = a.positions.as<int32_t>();
  int64_t first = 0;
  for (int64_t t = 0; t < a.ids.dim(0); ++t) {
    const int64_t position = t % a.sequence;
    const bool new_document =
        a.mask == AttentionMask::document && position > 0 && ids[t - 1] == a.eos_id;
    if (position == 0 || new_document) first = t;
    first_key[t] = static_cast<int32_t>(first);
    positions[t] = static_cast<int32_t>(position);
  }
}

}  // namespace cpu
}  // namespace nereus::ops
