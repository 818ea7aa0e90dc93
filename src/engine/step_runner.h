// A training step, and steps that must run again: what the trainer, bench, probe and tests call.
//
//   enqueue(step)   reset of the experts' load; forward and backward of every microbatch; gradient
//                   norm, clipping, update. Returns while a GPU still works on it
//   confirm(n)      waits until the host knows whether step n counts, and returns its loss and norm
//
// At most kAhead steps may be enqueued and not confirmed. A step whose experts were sent more rows
// than they have capacity for changed nothing, and neither did those behind it
// (engine/step_status.h): confirm() gives the experts more capacity and runs them again, with the
// same batches and learning rates. A step whose loss or norm is not finite ends the run with the
// name of the first tensor that holds NaN or Inf.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/optimizer.h"

namespace nereus {

struct Step {
  int64_t number = 1;   // from 1, one after the other
  int64_t updates = 0;  // with this one, of the optimizer's states; 0: `number` of them
  double lr = 0;
  // This rank's, in the order of the schedule's microbatches. The memory behind it, and behind its
  // spans, must stay valid until the step is confirmed.
  std::span<const HostMicrobatch> microbatches;
  // Labels that are not ignored, over all ranks, which all know it: the loss is their mean. None
  // given: Options::tokens. 0: the loss is 0 and nothing changes.
  std::optional<int64_t> tokens = std::nullopt;
  double attention_pairs = 0;  // of queries and keys, of this rank's rows; only reported
  int signal = 0;              // a signal that this rank got, or 0
  bool logged = false;         // sends Options::figures
};

struct StepResult {     // the same on all ranks
  float loss = 0;       // mean over the tokens of the step
  float grad_norm = 0;  // before clipping
  double max_loss = 0;  // of the rank whose tokens have the highest mean, as if all had as many
  int signal = 0;       // the highest that a rank got
  // Tokens of the busiest expert over the mean, in the worst layer of all stages; 0: no experts.
  double max_over_mean = 0;
  double attention_pairs = 0;  // the mean of the ranks'
};

class StepRunner {
 public:
  static constexpr int kAhead = StepStatus::kAhead;

  struct Options {
    Optimizer::Options optimizer = {};
    double tokens = 1;   // of a step without ignored labels, over all ranks
    double base_lr = 0;  // optimizer.lr, for the message about a loss that is not finite
    // Called before a rank's experts get capacity for `rows` rows of a microbatch. Throws
    // Error{kConfig} when the device has no memory for it.
    std::function<void(int64_t rows)> check_capacity = nullptr;
    // This rank's, asked for when the end of a logged step, or of evaluate(), is enqueued.
    std::function<RankFigures()> figures = nullptr;
    int64_t reruns = 0;  // of an earlier part of the run
  };

  // Both must outlive the runner.
  StepRunner(Stream&, Engine&, Options);

  void enqueue(const Step&);
  // Of the oldest step that is enqueued and not confirmed, which must be `number`. Throws
  // Error{kNumeric} when it is not finite, Error{kConfig} when the experts' capacity cannot grow.
  StepResult confirm(int64_t number);

  // Loss (in loss(), f32 [1] on the device, this rank's part) and gradients (in the store) of a
  // step's microbatches, without an update. No step may be unconfirmed.
  void compute_gradients(std::span<const HostMicrobatch>);
  TensorView loss() const { return optimizer_.loss(); }

  // The sum over all ranks of the losses of these microbatches, divided by `tokens`, without
  // gradients. No step may be unconfirmed; `step` is for messages. All ranks call it with as many
  // microbatches.
  float evaluate(std::span<const HostMicrobatch>, double tokens, int64_t step);

  // Of the ranks' figures with the step confirmed last, or with evaluate() after it, the highest.
  const RankFigures& highest() const { return highest_; }

  // Steps that ran again because of the experts' capacity, so far.
  int64_t reruns() const { return reruns_; }

 private:
  double tokens(const Step& step) const {
    return step.tokens ? static_cast<double>(*step.tokens) : options_.tokens;
  }
  void compute_gradients(std::span<const HostMicrobatch>, double tokens);
  void launch(const Step&);
  void send_figures(bool send);
  void run_again(const StepStatus::Outcome&);
  void grow_expert_capacity(int64_t step, int64_t required_capacity);
  [[noreturn]] void fail_nonfinite(const Step&, const StepStatus::Outcome&);

  Stream& stream_;
  Engine& engine_;
  Options options_;
  Optimizer optimizer_;
  std::vector<Step> unconfirmed_;  // oldest first, at most kAhead
  bool rehearsed_ = false;
  int64_t reruns_ = 0;
  RankFigures highest_;
};

}  // namespace nereus
