// A part of the model that lives on one rank of a pipeline: a list of modules, which are the
// embedding, blocks, the head. What a schedule's actions F, B, I and W work on.
//
// T tokens of a microbatch on this rank, D model width. Between modules, and on the edges between
// stages, there is one tensor [T/tp, D] in the type that kernels compute in.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/head.h"
#include "model/pipeline_stage.h"
#include "parallel/parameter_store.h"

namespace nereus {

class Stage final : public PipelineStage {
 public:
  using Part = StagePart;

  struct Options {
    Part part;
    TensorSpec edge;  // [T/tp, D], between two stages
    // By layer of the model; the stage takes those of its blocks. The load's views must outlive it.
    std::span<const Recompute> recompute;
    std::span<const ExpertLoad> load;
  };

  // `store` has the tensors of `layout`, which knows all modules of the part. It and what
  // LayerParallel refers to must outlive the stage.
  Stage(const ModelArgs&, const ModelLayout& layout, const RopeTables&, LayerParallel,
        ParameterStore& store, const Options&);

  struct Saved final : PipelineStage::Saved {
    explicit Saved(const Stage&);

    struct Places {
      Arena::Place dgrad = {}, wgrad = {};
    };
    std::vector<Places> kept;  // by module: where what forward kept of it begins
    std::vector<Block::Saved> blocks;
    std::vector<Block::Pending> pending;
    Head::Saved head;
    // What the module that ran last made, the next one's input: [T/tp, D].
    ConstTensorView hidden;           // in forward; after it the input of the head
    ConstTensorView dhidden;          // in a backward pass
    std::array<TensorView, 2> turns;  // of backward: where modules leave dhidden, by turns
    size_t turn = 0;
    ConstTensorView dembedding;  // [T, D], of the embedding's output: from I for W
  };

  const std::vector<TensorSpec>& input_edge() const override { return input_edge_; }
  const std::vector<TensorSpec>& output_edge() const override { return output_edge_; }
  const std::vector<int>& buckets() const override { return buckets_; }
  std::unique_ptr<PipelineStage::Saved> make_saved() const override;

  void forward(Context&, const Microbatch&, std::span<const TensorView> input,
               std::span<const TensorView> output, TensorView loss,
               PipelineStage::Saved&) const override;
  void backward(Context&, const Microbatch&, std::span<const TensorView> gradient,
                PipelineStage::Saved&) const override;
  void backward_input(Context&, const Microbatch&, std::span<const TensorView> gradient,
                      PipelineStage::Saved&) const override;
  void backward_weight(Context&, const Microbatch&, PipelineStage::Saved&) const override;

 private:
  struct Module {
    enum class Kind : uint8_t { embedding, block, head } kind;
    const char* name;  // in traces
    int bucket;
    size_t block = 0;  // which of this stage's
    int layer = -1;    // of the model, of a block
  };
  // What forward and backward do a module at a time, from the first to the last and back: what they
  // hand on is in Saved alone, so that the passes of two microbatches could take turns.
  // `output`: where the last module leaves its own; "no tensor" for the others, and for the head.
  void forward_module(size_t i, Context&, const Microbatch&, TensorView output, TensorView loss,
                      Saved&) const;
  void backward_module(size_t i, Context&, const Microbatch&, Saved&) const;
  // The bucket of the weights that the same pass needs after module i; -1: of none.
  int next_in_forward(size_t i) const;
  int next_in_backward(size_t i) const;

  ConstTensorView embed(Context&, const Microbatch&, TensorView output) const;
  void embedding_backward(Context&, const Microbatch&, ConstTensorView dy) const;
  void forward_head(Context&, const Microbatch&, TensorView loss, int bucket, Saved&) const;

  auto weight() const {
    return [this](TensorHandle h) { return store_.weight(h); };
  }
  auto gradient() const {
    return [this](TensorHandle h) { return store_.gradient(h); };
  }

  int64_t dim_;
  ParameterStore& store_;
  std::vector<Module> modules_;
  std::vector<int> buckets_;
  std::vector<TensorSpec> input_edge_, output_edge_;
  TpRegion& tp_;

  TensorHandle embedding_;
  int embedding_bucket_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<BlockTensors<TensorHandle>> block_tensors_;  // by block of this stage
  std::vector<ExpertLoad> load_;                           // likewise
  Head head_;
  HeadTensors<TensorHandle> head_tensors_;
};

}  // namespace nereus
