// Where each rank stands: TorchTitan's axes of parallelism, their rules, and which ranks form each
// group. A pure function of the degrees and the number of ranks.
//
// Ranks are numbered row-major over [pp, dp_replicate, dp_shard, cp, tp], tp fastest: the ranks of
// a tp group are neighbours, a pipeline's are the farthest apart. Expert parallelism is no axis of
// its own: it borrows. With etp = tp it takes all of cp and a part of dp_shard (ep = in * cp), with
// etp = 1 all of tp too (ep = in * cp * tp), where dp_shard = mod * in, `in` the faster. So an ep
// group is a run of neighbours too when etp = 1 or tp = 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"

namespace nereus {

struct MeshDegrees {
  int64_t dp_replicate = 1;
  int64_t dp_shard = -1;  // -1: what the others leave of the world
  int64_t cp = 1, tp = 1, pp = 1;
  int64_t ep = 1, etp = 1;
};

MeshDegrees mesh_degrees(const JobConfig&);  // as [parallelism] says

enum class MeshGroup : uint8_t {
  pp,            // the stages of one pipeline
  dp_replicate,  // holders of the same shard
  dp_shard,      // shards of the data
  cp,            // parts of a sequence
  tp,            // parts of a layer
  cp_tp,         // who together have the tokens of a sequence: cp x tp
  dp,            // who reads different data: dp_replicate x dp_shard
  dp_shard_cp,   // the shards of a parameter: dp_shard x cp
  dp_cp,         // over which loss and gradients are means: dp_replicate x dp_shard x cp
  ep,            // who holds different experts
  expert_shard,  // the shards of an expert's parameter: the part of dp_shard x cp (x tp) that ep
                 // does not take
  expert_tp,     // parts of an expert: tp, or this rank alone with etp = 1
};
const char* name_of(MeshGroup);

class Mesh {
 public:
  // Throws Error{kConfig} when the degrees break a rule: TorchTitan's sentence, the keys with their
  // values, what would work.
  Mesh(const MeshDegrees&, int64_t world);

  int world() const { return static_cast<int>(world_); }
  const MeshDegrees& degrees() const { return degrees_; }  // dp_shard is never -1

  int size(MeshGroup) const;
  // Which of the disjoint groups of that kind `rank` is in: [0, world / size).
  int index(MeshGroup, int rank) const;
  int position(MeshGroup, int rank) const;              // in its group
  std::vector<int> members(MeshGroup, int rank) const;  // of its group, by position, ascending

  // "pp 2 x dp_shard 4 x tp 2, ep 8": the degrees above 1; "1 rank".
  std::string to_string() const;

 private:
  void infer_and_check();
  void check_experts() const;
  unsigned axes(MeshGroup) const;

  // Slowest first.
  enum Axis { kPp, kReplicate, kShardMod, kShardIn, kCp, kTp, kAxes };
  MeshDegrees degrees_;
  int64_t world_;
  int64_t extent_[kAxes] = {1, 1, 1, 1, 1, 1};
};

// Throws Error{kConfig} when the model or the batch cannot be cut like that: experts by ep, heads
// and widths by tp, the sequence by tp and 2 cp.
void check_fits(const Mesh&, const ModelArgs&, int64_t seq_len);

}  // namespace nereus
