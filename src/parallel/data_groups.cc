#include "parallel/data_groups.h"

#include "comm/communicator.h"

namespace nereus {

int DataGroups::shards() const { return shard != nullptr ? shard->size() : 1; }
int DataGroups::shard_index() const { return shard != nullptr ? shard->rank() : 0; }

void DataGroups::sum_over_shards(Stream& stream, TensorView data) const {
  if (shard != nullptr) shard->all_reduce(stream, data);
}

void DataGroups::sum(Stream& stream, TensorView data) const {
  sum_over_shards(stream, data);
  if (replicate != nullptr) replicate->all_reduce(stream, data);
}

}  // namespace nereus
