// Context parallelism as a region of keys and values: what attention's keys are made of (latents,
// narrower than the keys of all heads) is gathered over the ranks that share a sequence, tp and cp
// together, and put in the order of the sequences; gradients go back by a sum and scatter.
//
// Rank c of cp has chunks c and 2 cp - 1 - c of each sequence of 2 cp chunks, so that all have the
// same share of a causal mask.
#pragma once

#include <vector>

#include "parallel/group_region.h"

namespace nereus {

// Which chunks of a sequence a rank of cp has.
inline std::array<int64_t, 2> chunks_of(int rank, int cp) { return {rank, 2 * cp - 1 - rank}; }

class ContextRegion final : public TpRegion {
 public:
  // `group`: cp x tp, tp the faster. `rows` sequences of `sequence` tokens.
  ContextRegion(Stream&, Communicator& group, int cp, int64_t rows, int64_t sequence);

  int size() const override { return inner_.size(); }
  int rank() const override { return inner_.rank(); }
  ConstTensorView enter(Context&, Arena& arena, ConstTensorView x) override;
  ConstTensorView leave_backward(Context&, Arena& arena, ConstTensorView dy) override;
  TensorView partial(Context&, TensorView result) override;
  void leave(Context&, TensorView y, TensorView partial) override;
  void enter_backward(Context&, TensorView dx, TensorView partial) override;

 private:
  GroupRegion inner_;
  Buffer buffer_;
  TensorView arrival_of_key_, key_of_arrival_;  // i32 [rows * sequence]
};

}  // namespace nereus
