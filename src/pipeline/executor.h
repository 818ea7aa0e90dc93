// Runs the actions of a step on one rank's stage: owns the microbatches in flight, with all the
// memory that activations need, sized before the first step by running a microbatch on the meta
// device.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "model/stage.h"
#include "pipeline/schedule.h"

namespace nereus {

// Token ids of a microbatch on the host, rows of `sequence` tokens.
struct HostMicrobatch {
  std::span<const int32_t> ids, labels;
};

class Executor {
 public:
  struct Options {
    int64_t rows = 1;      // B, sequences a microbatch
    int64_t sequence = 1;  // S, tokens a sequence
    ops::AttentionMask mask = ops::AttentionMask::causal;
    int32_t eos_id = -1;   // ends a document, for AttentionMask::document
    int in_flight = 1;     // microbatches between their forward and their backward
    bool backward = true;  // false: only evaluate() will be called
  };

  // What activations take on this rank, for the memory table and the error that refuses a run.
  struct Memory {
    int64_t saved = 0;                  // bytes kept for the backward pass at most, a microbatch
    int64_t scratch = 0;                // bytes of scratch at most
    int64_t total = 0;                  // of all microbatches in flight and the scratch
    std::vector<Arena::Entry> largest;  // by name, when they are the most together
  };
  static Memory measure(Stream& target, const Stage&, const Options&);

  // `stage` and `store` must outlive the executor, whose memory is on stream's device.
  Executor(Stream&, const Stage& stage, ParameterStore& store, const Options&);

  // A step: microbatch m of the actions is microbatches[m]. loss f32 [1] is set to
  // sum_m loss_scale * (summed token losses). `update` is what Action::Kind::update does.
  void run(std::span<const Action>, std::span<const HostMicrobatch> microbatches, float loss_scale,
           TensorView loss, const std::function<void()>& update);
  // The loss alone, without gradients; added to `loss`.
  void evaluate(const HostMicrobatch&, float loss_scale, TensorView loss, Observer* = nullptr);

  void set_observer(Observer* observer) { observer_ = observer; }  // of run(); null: none
  const Memory& memory() const { return memory_; }

 private:
  struct Slot {
    Slot(Device, const Stage&, const Options&, Arena saved);
    Buffer token_buffer;
    Buffer staging;  // pinned: ids and labels on their way to a GPU
    Event staged;    // the staging memory has been read
    Arena arena;     // a backward pass is dgrad and wgrad at once: one arena serves both
    Stage::Saved saved;
    TensorView ids, labels, positions, first_key;  // i32 [T]
  };

  Arena part(int64_t offset, int64_t bytes, const char* name) const;  // of buffer_
  Microbatch load(Slot&, const HostMicrobatch&, float loss_scale, bool training);
  Slot& slot(int microbatch) { return *slots_[static_cast<size_t>(microbatch) % slots_.size()]; }

  Stream& stream_;
  const Stage& stage_;
  ParameterStore& store_;
  Options options_;
  Memory memory_;
  Buffer buffer_;  // scratch and the first microbatch in one block, then the other microbatches
  Arena scratch_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Microbatch> in_flight_;  // by slot
  Observer* observer_ = nullptr;
};

}  // namespace nereus
