// A run of blocks that lives on one rank of a pipeline, with the embedding in front of the first
// and the head behind the last: what a schedule's actions F, I and W work on.
//
// T tokens of a microbatch, D model width.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/head.h"
#include "parallel/parameter_store.h"

namespace nereus {

class Stage {
 public:
  using Part = StagePart;

  // What a microbatch leaves between its passes; made once and reused.
  struct Saved {
    explicit Saved(const Stage&);
    std::vector<Block::Saved> blocks;
    std::vector<Block::Pending> pending;
    Head::Saved head;
    std::vector<Arena::Mark> input_marks, weight_marks;  // at each block's start, for B
    ConstTensorView y;                                   // the last block's output
    ConstTensorView dembedding;                          // [T, D], of the embedding's output: for W
  };

  Stage(const ModelArgs&, const ModelLayout&, Part, const RopeTables&, LayerParallel,
        std::span<const Recompute> recompute, ParameterStore&, std::vector<ExpertLoad>);

  // x is the edge from the stage before ("no tensor" in the first); returns the edge to the next
  // ("no tensor" in the last). loss f32 [1] is added to in the last.
  ConstTensorView forward(Context&, const Microbatch&, ConstTensorView x, TensorView loss,
                          Saved&) const;

  // B: dgrad then wgrad, block by block, from the last to the first. dy is the gradient of what
  // forward returned. Gives back what the microbatch saved, as it goes. Returns the gradient of x,
  // in ctx.scratch ("no tensor" in the first stage).
  ConstTensorView backward(Context&, const Microbatch&, ConstTensorView dy, Saved&) const;

  // I and W: the same in two calls. dgrad's memory (ctx.saved_input) can be given back after the
  // first, wgrad's after the second; the first's dx is in ctx.saved_weight.
  ConstTensorView backward_input(Context&, const Microbatch&, ConstTensorView dy, Saved&) const;
  void backward_weight(Context&, const Microbatch&, Saved&) const;

  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }
  const Part& part() const { return part_; }
  const std::vector<int>& buckets() const { return buckets_; }  // of the store, in order of use

 private:
  ConstTensorView embed(Context&, const Microbatch&) const;
  void head_backward(Context&, TensorView dx, const Saved&) const;
  void embedding_backward(Context&, const Microbatch&, ConstTensorView dy) const;
  // The store's buckets: of block i of this stage, of what forward uses after it (-1: nothing), of
  // the head.
  int bucket(size_t i) const {
    return static_cast<int>(part_.first_block) + static_cast<int>(i) + 1;
  }
  int head_bucket() const { return static_cast<int>(args_.n_layers) + 1; }
  int next_bucket(int64_t i) const {
    if (i + 1 < blocks()) return bucket(static_cast<size_t>(i + 1));
    return part_.head ? head_bucket() : -1;
  }

  ModelArgs args_;
  Part part_;
  ParameterStore& store_;
  TensorHandle embedding_;
  std::vector<BlockTensors<TensorHandle>> handles_;
  HeadTensors<TensorHandle> head_handles_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<ExpertLoad> load_;  // by block of this stage
  std::vector<int> buckets_;
  TpRegion& tp_;
  Head head_;
};

}  // namespace nereus
