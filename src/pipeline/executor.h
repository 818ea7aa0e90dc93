// Runs the actions of a step on one rank's stages: owns the microbatches in flight, with all the
// memory that activations need, sized before the first step by running a microbatch on the meta
// device, and moves the edges between stages.
//
// It knows stages through model/pipeline_stage.h alone, and no schedule's name.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "device/trace.h"
#include "model/pipeline_stage.h"
#include "parallel/parameter_store.h"
#include "pipeline/memory_plan.h"
#include "pipeline/microbatch_slot.h"
#include "pipeline/schedule.h"
#include "pipeline/slots.h"

namespace nereus {

class Communicator;

class Executor {
 public:
  struct Options {
    MicrobatchShape shape = {};
    bool backward = true;          // false: only evaluate() will be called
    bool poison_released = false;  // device.poison_released
    // A step as this rank does it, with its communication (add_communication): what run() runs and
    // what memory is made for.
    std::vector<Action> actions = sequential_schedule(1).actions[0];
    std::vector<int> rank_of_stage = {0};  // by stage, ranks of `pp`
    Communicator* pp = nullptr;            // null: one rank has all stages
    // Of the largest tensor of any edge of the pipeline, those between other ranks too: ranks make
    // ready for messages of so many bytes.
    int64_t message_bytes = 0;
    int messages_waiting = 1;  // of a rank to another, at once: messages_waiting() of sends.h
    // Where activations and scratch lie: memory of so many bytes, which is another's. Not given, or
    // null: the executor's own.
    std::function<std::byte*(int64_t bytes)> memory = {};
  };

  // What activations take on this rank, for the memory table and the error that refuses a run.
  struct Memory {
    // What forward keeps of one microbatch on all stages, and what dgrad leaves for wgrad.
    int64_t saved = 0, pending = 0;
    // Of the microbatches in flight: all of the former, and the edges that have arrived.
    int64_t in_flight = 0;
    // Of one pass, when it takes the most: scratch, and what it makes again. Where only one
    // microbatch is in flight its `saved` too, which is not in in_flight then.
    int64_t pass = 0;
    int64_t sent = 0;                   // edges that are made for other ranks
    int64_t tokens = 0;                 // ids, labels and what follows from them
    int64_t total = 0;                  // in_flight, pass, sent and tokens
    int64_t links = 0;                  // taken of a GPU by what connects stages; not in total
    std::vector<Arena::Entry> largest;  // of `pass`, by name
    std::vector<Arena::Entry> kept;     // of the stage that keeps the most of a microbatch, by name
  };

  // `stages`: those of this rank, by their number in the model's pipeline; null: another rank's.
  // They and `store` must outlive the executor, whose memory is on stream's device. Throws
  // Error{kContract} for stages that do not fit together.
  Executor(Stream&, std::vector<const PipelineStage*> stages, ParameterStore& store, Options);

  // Between ranks of a pipeline on GPUs, before the first step: two of its microbatches, one after
  // the other, forward and backward through all stages. A kernel's first use waits until the GPU
  // has nothing to do; in the middle of a step sends wait there for other ranks, which may be
  // waiting for theirs in the same way. Leaves nothing behind but load of experts and `loss`.
  void rehearse(std::span<const HostMicrobatch> microbatches, float loss_scale, TensorView loss);
  bool needs_rehearsal() const { return stream_.on_gpu() && memory_.sent > 0; }

  // A step: microbatch m of the actions is microbatches[m], and there are as many. loss f32 [1] is
  // set to sum_m loss_scale * (summed token losses), on the rank that has the last stage. `update`
  // is what Action::Kind::update does.
  void run(std::span<const HostMicrobatch> microbatches, float loss_scale, TensorView loss,
           const std::function<void()>& update);
  // The losses alone, without gradients: microbatch i's is added to losses[i]. Weights that stay
  // unsharded are gathered once for all of them.
  void evaluate(std::span<const HostMicrobatch>, float loss_scale, TensorView losses,
                Observer* = nullptr);
  void evaluate(const HostMicrobatch& microbatch, float loss_scale, TensorView loss,
                Observer* observer = nullptr) {
    evaluate(std::span(&microbatch, 1), loss_scale, loss, observer);
  }

  void set_observer(Observer* observer) { observer_ = observer; }  // of run(); null: none
  const Memory& memory() const { return memory_; }
  // How much of the block that microbatches in flight and passes share the steps so far have used:
  // memory().in_flight + pass after a step.
  int64_t peak_bytes() const;
  // Between steps, after what layers need has changed: waits for the stream, gives back what there
  // is, measures again and makes it anew.
  void make_memory();

 private:
  // A stage of this rank.
  struct LocalStage {
    const PipelineStage* stage = nullptr;  // null: another rank's
    bool split = false;                    // has dgrad and wgrad apart
    StageMemory needs;                     // of one microbatch
    Slots slots;
    std::vector<std::unique_ptr<MicrobatchSlot>> memory;  // by slot
    // What was made last for another rank, the output and the gradient of the input: views of
    // outgoing_buffer_.
    std::vector<TensorView> output, input_gradient;
    // Which passes have written their parameters' gradients in this step; the next ones add. The
    // head's forward makes gradients, and dgrad those of norms.
    bool forward_wrote = false, dgrad_wrote = false, wgrad_wrote = false;
  };
  // What all forward passes of a step share.
  struct Pass {
    float loss_scale;
    TensorView loss;
    bool training;
    Observer* observer;
  };

  void check_edges() const;
  void connect();
  void measure();
  void measure(LocalStage&, bool alone);
  void make_slots();
  void make_outgoing();
  Arena part(int64_t offset, int64_t bytes, const char* name) const;  // of activations_
  void overwrite(std::byte* memory, int64_t bytes) const;  // that is free, with poison_released

  int stages() const { return static_cast<int>(stages_.size()); }
  LocalStage& local(int stage) { return stages_[static_cast<size_t>(stage)]; }
  bool is_local(int stage) const { return stages_[static_cast<size_t>(stage)].stage != nullptr; }
  bool is_first(int stage) const {  // of this rank's
    while (stage > 0 && !is_local(stage - 1)) --stage;
    return stage == 0;
  }
  int rank_of(int stage) const { return options_.rank_of_stage[static_cast<size_t>(stage)]; }

  // A microbatch's memory on a stage: taken when the microbatch comes to the stage, found while it
  // is there, given back with its last wgrad.
  MicrobatchSlot& take_slot(int stage, int microbatch);
  MicrobatchSlot& slot_of(int stage, int microbatch);
  void release_slot(int stage, int microbatch);
  // Of that, what is not read after the pass: arenas are emptied, and edges.
  void give_back(int stage, int microbatch, Arena&, StageMemory::Item);
  void give_back_edge(int stage, int microbatch, StageMemory::Item);

  // Where what a pass makes for another stage goes: to it on this rank (an activation takes its
  // slot), else to where it is sent from.
  std::span<const TensorView> destination(const Edge&);
  std::span<const TensorView> outgoing(const Edge&);
  void hand_over(const Action& pass, const PipelineStage::Saved&);
  void send(const Edge&);
  void receive(const Edge&);

  void begin_step();
  void gather(int stage);
  void reduce(int stage);
  void run(const Action&, std::span<const HostMicrobatch>, const Pass&,
           const std::function<void()>& update);
  // What the microbatches that are here hold. Tells the recorder (device/trace.h) when it records
  // memory.
  TraceMemory held() const;
  bool remembers() const { return stream_.trace() != nullptr && stream_.trace()->records_memory(); }
  void tell_memory(const Action&, const TraceMemory& before);
  // Passes; `a` is F, B, I or W.
  void forward(const Action& a, const HostMicrobatch&, const Pass&);
  void backward(const Action& a);
  void backward_input(const Action& a);
  void backward_weight(const Action& a);

  Stream& stream_;
  ParameterStore& store_;
  Options options_;
  size_t microbatches_ = 0;         // of a step
  std::vector<LocalStage> stages_;  // by number in the pipeline
  Memory memory_;
  MemoryPlan plan_;
  int64_t reached_ = 0;  // of it, in bytes
  int64_t edges_ = 0;    // bytes of edges that have arrived and are still needed
  // One stage with one slot: that and the scratch grow towards each other.
  bool alone_ = false;
  Buffer buffer_;  // of passes, then of microbatches in flight, where it is the executor's own
  std::byte* activations_ = nullptr;  // that, or options_.memory's
  Arena scratch_;
  // What a backward pass makes again of what forward did not keep; shares its block with scratch_.
  Arena again_;
  Buffer outgoing_buffer_;
  PostedReceives receives_;
  Observer* observer_ = nullptr;
};

}  // namespace nereus
