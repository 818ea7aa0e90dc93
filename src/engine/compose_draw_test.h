// What the composition test draws: a valid model, a layout of up to 32 ranks and an optimizer, all
// a function of one number.
#pragma once

#include <initializer_list>
#include <string>

#include "engine/engine.h"
#include "engine/optimizer.h"
#include "parallel/mesh.h"

namespace nereus::compose {

// Random choices, one after the other: Philox of (number, how many came before).
class Dice {
 public:
  explicit Dice(uint64_t number) : number_(number) {}
  int64_t between(int64_t low, int64_t high);  // both included
  bool one_in(int64_t n) { return between(1, n) == 1; }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }

 private:
  uint64_t number_, count_ = 0;
};

// Which labels are -100. `most`: all of half the rows, and seven in eight of the others, so that
// ranks, microbatches and parts of sequences have none; `step`: some, and all of the second step.
enum class Ignored { none, some, most, step };

struct Draw {
  explicit Draw(uint64_t number);
  std::string to_string() const;  // one line

  bool documents() const { return args.block_causal(); }
  int64_t global_rows() const { return dp() * microbatches * rows; }
  int64_t dp() const { return degrees.dp_replicate * degrees.dp_shard; }

  uint64_t number;
  ModelArgs args;

  MeshDegrees degrees;
  int ranks = 1;
  Pipeline pipeline;
  int stages_per_rank = 1;
  int64_t rows = 1, sequence = 8;  // of a microbatch
  int microbatches = 1;            // of a rank, a step
  int batches_to_validate = 1;     // on each data-parallel rank, of `rows` rows

  std::vector<Recompute> recompute;  // by block
  bool reshard = false;
  ExpertDispatcher dispatcher = ExpertDispatcher::automatic;
  double capacity_factor = 0;  // below what routing wants: steps run again
  int64_t steps = 2;
  bool ahead = false;  // a step is enqueued before the one before is confirmed
  Ignored ignored = Ignored::none;
  bool sockets = false;         // between the ranks, which are threads; else they share memory
  bool expert_overlap = false;  // of GPUs

  DType moments = DType::f32;
  // Where the states are kept: with bf16 copies, and compared to the bit with the same layout that
  // keeps everything whole on the device.
  bool split_masters = false;
  Offload offload = Offload::none;
  Optimizer::Options optimizer;
  double lr = 0;

 private:
  void draw_mesh(Dice&);
  void draw_model(Dice&);
  void draw_experts(Dice&);
  void draw_rotary(Dice&);
  void draw_pipeline(Dice&);
  void draw_step(Dice&);
  void draw_forced_routing(Dice&);
  void draw_labels(Dice&);
  void draw_ranks(Dice&);
};

}  // namespace nereus::compose
