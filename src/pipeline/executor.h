// Runs the actions of a step on one rank's stages: owns the microbatches in flight, with all the
// memory that activations need, sized before the first step by running a microbatch on the meta
// device, and moves the edges between stages.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "model/stage.h"
#include "pipeline/schedule.h"
#include "pipeline/slots.h"

namespace nereus {

class Communicator;

// Token ids of a microbatch on the host, rows of `sequence` tokens.
struct HostMicrobatch {
  std::span<const int32_t> ids, labels;
};

class Executor {
 public:
  struct Options {
    int64_t rows = 1;         // B, sequences a microbatch
    int64_t sequence = 1;     // S, tokens a sequence
    int cp = 1, cp_rank = 0;  // this rank's chunks of each sequence (parallel/context_region.h)
    int64_t edge_rows = 0;    // tokens of an edge between stages on this rank: those of its tp part
    int64_t width = 0;        // D, of an edge
    DType compute = DType::f32;  // of an edge
    ops::AttentionMask mask = ops::AttentionMask::causal;
    int32_t eos_id = -1;           // ends a document, for AttentionMask::document
    bool backward = true;          // false: only evaluate() will be called
    bool poison_released = false;  // device.poison_released
    // A step as this rank does it: what memory is made for.
    std::vector<Action> actions = sequential_schedule(1);
    std::vector<int> rank_of_stage = {0};  // by stage, ranks of `pp`
    Communicator* pp = nullptr;            // null: one rank has all stages
    // Where activations and scratch lie: memory of so many bytes, which is another's. Not given, or
    // null: the executor's own.
    std::function<std::byte*(int64_t bytes)> memory;
  };

  // What activations take on this rank, for the memory table and the error that refuses a run.
  struct Memory {
    int64_t saved = 0;    // bytes kept for the backward pass at most, a microbatch of all stages
    int64_t scratch = 0;  // bytes of scratch at most
    int64_t edges = 0;    // between stages
    int64_t total = 0;    // of all microbatches in flight, edges and scratch
    std::vector<Arena::Entry> largest;  // by name, when they are the most together
  };

  // `stages`: those of this rank, by their number in the model's pipeline; null: another rank's.
  // They and `store` must outlive the executor, whose memory is on stream's device.
  Executor(Stream&, std::vector<const Stage*> stages, ParameterStore& store, Options);

  // A step: microbatch m of the actions is microbatches[m]. loss f32 [1] is set to
  // sum_m loss_scale * (summed token losses), on the rank that has the last stage. `update` is what
  // Action::Kind::update does.
  void run(std::span<const Action>, std::span<const HostMicrobatch> microbatches, float loss_scale,
           TensorView loss, const std::function<void()>& update);
  // The loss alone, without gradients; added to `loss`.
  void evaluate(const HostMicrobatch&, float loss_scale, TensorView loss, Observer* = nullptr);

  void set_observer(Observer* observer) { observer_ = observer; }  // of run(); null: none
  const Memory& memory() const { return memory_; }
  // What the arenas of the passes done so far have held at most: memory().total without its edges,
  // once every slot has had a microbatch.
  int64_t peak_bytes() const;
  // Between steps, after what layers need has changed: waits for the stream, gives back what there
  // is, measures again and makes it anew.
  void make_memory();

 private:
  // A microbatch on a stage.
  struct Slot {
    Slot(Stream&, const Stage&, const Options&);
    Buffer token_buffer, row_buffer;  // this rank's tokens, and with cp those of whole sequences
    Buffer staging;                   // pinned: ids and labels on their way to a GPU
    Event staged;                     // the staging memory has been read
    Buffer edges;
    std::vector<Arena> arenas;  // one, or one for dgrad and one for wgrad
    Arena& kept_for_dgrad() { return arenas.front(); }
    Arena& kept_for_wgrad() { return arenas.back(); }
    Stage::Saved saved;
    TensorView ids, labels, positions, first_key;  // i32 [T]
    std::array<TensorView, 4> rows;  // the same of whole sequences; with cp of one rank themselves
    TensorView x, dy;                // edges that arrive
    Microbatch microbatch;
  };
  struct Local {  // a stage of this rank
    const Stage* stage = nullptr;
    bool split = false;                    // has dgrad and wgrad apart
    int64_t for_dgrad = 0, for_wgrad = 0;  // bytes a slot; for_wgrad 0: one arena serves both
    Slots slots;
    std::vector<std::unique_ptr<Slot>> memory;
    // Has this step written the gradients of: the head, dgrad's (norms), wgrad's?
    bool head_written = false, dgrad_written = false, wgrad_written = false;
  };

  void measure();
  void make_slots();
  void connect();
  Arena part(int64_t offset, int64_t bytes, const char* name) const;  // of activations_
  Local& local(int stage) { return stages_[static_cast<size_t>(stage)]; }
  Slot& take_slot(int stage, int microbatch);
  Slot& slot_of(int stage, int microbatch);
  bool is_local(int stage) const {
    return stage >= 0 && stage < static_cast<int>(stages_.size()) &&
           stages_[static_cast<size_t>(stage)].stage != nullptr;
  }
  Context context(Slot& slot, bool accumulate);
  Microbatch microbatch_of(const Slot&, float loss_scale, bool training) const;
  void take_chunks(Slot&);
  void load(Slot&, const HostMicrobatch&, float loss_scale, bool training);
  void forward(int stage, int microbatch, const HostMicrobatch&, float loss_scale, TensorView loss,
               bool training, Observer*);
  void backward(int stage, int microbatch);
  void backward_input(int stage, int microbatch);
  void backward_weight(int stage, int microbatch);
  void hand_back(int stage, int microbatch, ConstTensorView dx);
  void release(int stage, int microbatch);
  void receive(const Action& wait);
  void send(const Action&);

  Stream& stream_;
  ParameterStore& store_;
  Options options_;
  std::vector<Local> stages_;  // by number
  Memory memory_;
  int64_t shared_ = 0;  // bytes of the block that scratch and the only slot share; 0: they do not
  Buffer buffer_;       // scratch, and what slots keep, where it is the executor's own
  std::byte* activations_ = nullptr;  // that, or options_.memory's
  Arena scratch_;
  Buffer outgoing_buffer_;
  TensorView outgoing_;  // the gradient edge made last, for another rank
  EdgeOrder posted_;
  Observer* observer_ = nullptr;
};

}  // namespace nereus
