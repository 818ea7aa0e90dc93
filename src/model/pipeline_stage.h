// What the executor asks of a stage of a pipeline: its passes over one microbatch, the parameters
// that they use, and the edges that join it to its neighbours.
//
// An edge is a list of tensors, declared on both sides: the output edge of a stage is the input
// edge of the next, with the same types and shapes in the same order. Its gradient has the same
// tensors. The executor has memory for what arrives, copies and sends; a stage only reads what it
// is given and says where it left what it made.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "model/microbatch.h"
#include "parallel/layer_context.h"

namespace nereus {

// A tensor that is still to be made.
struct TensorSpec {
  const char* name;  // a literal
  DType dtype;       // f32 or bf16
  Shape shape;

  int64_t bytes() const { return shape.count() * size_of(dtype); }
};

class PipelineStage {
 public:
  // What a microbatch leaves on a stage between its passes; made once and reused by others.
  struct Saved {
    virtual ~Saved() = default;
    // The gradient of the input edge, by backward (in its scratch) and backward_input (with what
    // it saved for wgrad).
    std::vector<ConstTensorView> input_gradient;
  };

  virtual ~PipelineStage() = default;

  // Empty: the first stage has no input edge, the last no output edge.
  virtual const std::vector<TensorSpec>& input_edge() const = 0;
  virtual const std::vector<TensorSpec>& output_edge() const = 0;
  // The store's buckets (parallel/parameter_store.h) of its parameters, in order of their use.
  virtual const std::vector<int>& buckets() const = 0;
  virtual std::unique_ptr<Saved> make_saved() const = 0;

  // `input`: the input edge, which stays until dgrad. `output`: the output edge, to be written; it
  // is another stage's as soon as the pass ends. `loss`, f32 [1], is added to by the last stage; it
  // may also make gradients of its parameters here: ctx.accumulate says whether they are added to.
  virtual void forward(Context&, const Microbatch&, std::span<const TensorView> input,
                       std::span<const TensorView> output, TensorView loss, Saved&) const = 0;

  // What a backward pass takes from ctx is for itself: it lies apart from what forward kept, or on
  // top of it.

  // B: dgrad and wgrad. `gradient`: of the output edge. Gives memory back as it goes.
  virtual void backward(Context&, const Microbatch&, std::span<const TensorView> gradient,
                        Saved&) const = 0;

  // I and W: the same in two calls. What lies in ctx.saved_for_dgrad, of forward too, is given back
  // after the first, what lies in ctx.saved_for_wgrad after the second. `gradient` is read by both.
  virtual void backward_input(Context&, const Microbatch&, std::span<const TensorView> gradient,
                              Saved&) const = 0;
  virtual void backward_weight(Context&, const Microbatch&, Saved&) const = 0;
};

}  // namespace nereus
