// The ranks that work on different data with the same model: FSDP and HSDP.
#pragma once

#include "tensor/tensor.h"

namespace nereus {

class Communicator;
class Stream;

// Both null: one rank. The communicators must outlive what is made with them.
struct DataGroups {
  Communicator* shard = nullptr;      // divide masters, moments and reduced gradients among them
  Communicator* replicate = nullptr;  // hold the same shards as this rank

  int shards() const;
  int shard_index() const;
  // data = its sum over all of them: first over the shard group, then over replicas.
  void sum(Stream&, TensorView data) const;
  // Over the shard group alone: of what replicas have alike.
  void sum_over_shards(Stream&, TensorView data) const;
};

}  // namespace nereus
