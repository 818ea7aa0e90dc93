#include "parallel/rank_world.h"

#include <numeric>

#include "base/check.h"
#include "comm/meta_ranks.h"
#include "comm/single_rank.h"

namespace nereus {
namespace {

constexpr MeshGroup kGroups[] = {
    MeshGroup::pp,           MeshGroup::dp_replicate, MeshGroup::cp,
    MeshGroup::tp,           MeshGroup::dp_shard_cp,  MeshGroup::ep,
    MeshGroup::expert_shard, MeshGroup::expert_tp,    MeshGroup::cp_tp};

std::vector<int> all_ranks(const Mesh& mesh) {
  std::vector<int> out(static_cast<size_t>(mesh.world()));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

}  // namespace

std::span<const MeshGroup> RankWorld::groups() { return kGroups; }

// Weights come and gradients go while blocks compute. Stages send by pairs' own groups, and keys
// come by cp_tp. Experts' rows go as fast as they can, unless a network is slower than few SMs.
GroupUse RankWorld::use_of(MeshGroup g, std::span<const int> members) {
  if (g == MeshGroup::dp_shard_cp || g == MeshGroup::expert_shard || g == MeshGroup::dp_replicate)
    return GroupUse::background;
  if (g == MeshGroup::pp || g == MeshGroup::cp) return GroupUse::records;
  return g == MeshGroup::ep && crosses_hosts(members) ? GroupUse::background : GroupUse::foreground;
}

RankWorld::RankWorld() : RankWorld(Mesh({.dp_shard = 1}, 1), 0) {}

RankWorld::RankWorld(const Mesh& mesh, Communicator& world) : mesh_(mesh), world_(world) {
  for (const MeshGroup g : kGroups)
    groups_[g] = mesh.size(g) == 1
                     ? single_rank(name_of(g), rank())
                     : world.split(name_of(g), mesh.index(g, rank()), mesh.position(g, rank()),
                                   use_of(g, mesh.members(g, rank())));
}

RankWorld::RankWorld(const Mesh& mesh, int rank)
    : mesh_(mesh),
      own_(mesh.world() == 1 ? single_rank("world") : meta_ranks("world", all_ranks(mesh), rank)),
      world_(*own_) {
  for (const MeshGroup g : kGroups)
    groups_[g] = mesh.size(g) == 1
                     ? single_rank(name_of(g), rank)
                     : meta_ranks(name_of(g), mesh.members(g, rank), mesh.position(g, rank));
}

Communicator& RankWorld::group(MeshGroup g) const {
  const auto it = groups_.find(g);
  NEREUS_CHECK(kContract, it != groups_.end(), "the ranks of {} only count", name_of(g));
  return *it->second;
}

void RankWorld::sum_over_tokens(Stream& stream, TensorView data) const {
  for (const MeshGroup g : {MeshGroup::tp, MeshGroup::dp_shard_cp, MeshGroup::dp_replicate})
    group(g).all_reduce(stream, data);
}

}  // namespace nereus
