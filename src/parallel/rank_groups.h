// The groups of ranks that this rank works with. A group of one rank is null.
#pragma once

#include "tensor/tensor.h"

namespace nereus {

class Communicator;
class Stream;

struct RankGroups {
  Communicator* shard = nullptr;         // dp_shard x cp: divide masters, moments and gradients
  Communicator* expert_shard = nullptr;  // the same of routed experts
  Communicator* replicate = nullptr;     // hold the same shards as this rank
  Communicator* tp = nullptr;            // cut layers
  Communicator* pp = nullptr;            // hold other layers
  Communicator* world = nullptr;         // all ranks

  Communicator* shard_of(bool experts) const { return experts ? expert_shard : shard; }
  int shards(bool experts) const;
  int shard_index(bool experts) const;

  // Is this the rank of its tp group that counts what all of them have?
  bool first_of_tp() const;

  // data = its sum over all ranks that have different tokens: routing, which tp divides too.
  void sum_over_tokens(Stream&, TensorView data) const;
};

}  // namespace nereus
