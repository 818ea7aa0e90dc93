#include "parallel/rank_groups.h"

#include "comm/communicator.h"

namespace nereus {
namespace {

void sum(Stream& stream, Communicator* group, TensorView data) {
  if (group != nullptr) group->all_reduce(stream, data);
}

}  // namespace

int RankGroups::shards(bool experts) const {
  const Communicator* group = shard_of(experts);
  return group != nullptr ? group->size() : 1;
}
int RankGroups::shard_index(bool experts) const {
  const Communicator* group = shard_of(experts);
  return group != nullptr ? group->rank() : 0;
}

bool RankGroups::first_of_tp() const { return tp == nullptr || tp->rank() == 0; }

void RankGroups::sum_over_tokens(Stream& stream, TensorView data) const {
  sum(stream, tp, data);
  sum(stream, shard, data);
  sum(stream, replicate, data);
}

}  // namespace nereus
