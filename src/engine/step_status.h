// Whether a step is skipped (PyTorch's found_inf), and how the host learns it without waiting.
//
// At the end of a step all ranks exchange, in one all-gather, their parts of the gradient norm
// and of the loss, the capacity that a rank's experts would need where they have less, a signal
// that asks to stop, and figures that are only reported; each adds them up in the order of ranks.
// A step whose loss or norm is not finite, or whose experts overflowed, clears a word on the device
// without which nothing of an update happens. The word stays clear, so that steps which are
// enqueued after such a step change nothing either, until reset().
#pragma once

#include <cstdint>

#include "device/device.h"
#include "parallel/rank_world.h"

namespace nereus {

// What a rank tells of itself, as far as it knows when the end of a step is enqueued.
struct RankFigures {
  double data_seconds = 0;                    // waited for data since the last logged step
  double memory_gib = 0, memory_percent = 0;  // highest so far, of the device or the process
};

class StepStatus {
 public:
  // `world` must outlive it.
  StepStatus(Stream&, const RankWorld& world);

  // Of the step that is being enqueued, on the device.
  TensorView loss() const { return loss_; }                // f32 [1], this rank's part
  TensorView sum_squares() const { return sum_squares_; }  // f64 [1], this rank's part
  TensorView overflow() const { return overflow_; }  // i64 [1], see TokenDispatcher::set_overflow
  TensorView max_over_mean() const { return max_over_mean_; }  // f64 [1], of the experts' load
  // Once it is finished:
  ConstTensorView coefficient() const { return coefficient_; }  // f32 [1], of clipping
  ConstTensorView ok() const { return ok_; }                    // i32 [1], 0: nothing may change

  // The number of a signal that this rank got, or 0: sent with the next step that is finished.
  void signal(int signal) { signal_ = signal; }
  // Of queries and keys in attention, of this rank's rows: sent with the next step likewise.
  void attention_pairs(double pairs) { attention_pairs_ = pairs; }
  void figures(const RankFigures& figures) { figures_ = figures; }  // likewise
  // Enqueues the exchange and the decision. At most kAhead steps are finished and not yet read.
  static constexpr int kAhead = 2;
  void finish(float max_norm);

  struct Outcome {                  // of a step, the same on all ranks
    float loss = 0, grad_norm = 0;  // grad_norm before clipping
    double max_loss_part = 0;       // the highest of the ranks' parts of the loss
    int64_t required_capacity = 0;  // 0: no rank's experts were over their capacity
    double max_over_mean = 0;       // of the busiest expert, in the worst layer
    double attention_pairs = 0;     // the mean of the ranks'
    int signal = 0;                 // the highest that a rank sent
    RankFigures highest;            // of any rank, each of them
    bool ok = false;                // false: it changed nothing
  };
  Outcome read();  // of the oldest that was not read; waits for it alone
  int unread() const { return static_cast<int>(finished_ - read_); }
  void reset();  // enqueues: steps are no longer skipped

 private:
  TensorView place(int64_t slot, DType, const Shape&, int64_t offset = 0) const;

  Stream& stream_;
  const RankWorld& world_;
  Buffer buffer_, host_;
  TensorView decision_, total_, norm_, ok_;  // decision_: the others and `ok`, as bytes
  TensorView loss_, sum_squares_, overflow_, max_over_mean_, coefficient_, records_;
  Event read_by_host_[kAhead];
  int64_t finished_ = 0, read_ = 0;
  int signal_ = 0;
  double attention_pairs_ = 0;
  RankFigures figures_;
};

}  // namespace nereus
