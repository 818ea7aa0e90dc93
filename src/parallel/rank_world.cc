#include "parallel/rank_world.h"

#include <numeric>

#include "comm/meta_ranks.h"

namespace nereus {
namespace {

constexpr MeshGroup kGroups[] = {
    MeshGroup::pp,           MeshGroup::dp_replicate, MeshGroup::cp,
    MeshGroup::tp,           MeshGroup::dp_shard_cp,  MeshGroup::ep,
    MeshGroup::expert_shard, MeshGroup::expert_tp,    MeshGroup::cp_tp};

// Weights come and gradients go while blocks compute.
GroupUse use_of(MeshGroup g) {
  const bool data =
      g == MeshGroup::dp_shard_cp || g == MeshGroup::expert_shard || g == MeshGroup::dp_replicate;
  return data ? GroupUse::background : GroupUse::foreground;
}

std::vector<int> all_ranks(const Mesh& mesh) {
  std::vector<int> out(static_cast<size_t>(mesh.world()));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

}  // namespace

RankWorld::RankWorld(const Mesh& mesh, Communicator& world) : mesh_(mesh), world_(world) {
  for (const MeshGroup g : kGroups) {
    if (mesh.size(g) == 1) continue;
    groups_[g] =
        world.split(name_of(g), mesh.index(g, rank()), mesh.position(g, rank()), use_of(g));
  }
}

RankWorld::RankWorld(const Mesh& mesh, int rank)
    : mesh_(mesh), meta_(meta_ranks("world", all_ranks(mesh), rank)), world_(*meta_) {
  for (const MeshGroup g : kGroups)
    if (mesh.size(g) > 1)
      groups_[g] = meta_ranks(name_of(g), mesh.members(g, rank), mesh.position(g, rank));
}

Communicator* RankWorld::group(MeshGroup g) const {
  const auto it = groups_.find(g);
  return it == groups_.end() ? nullptr : it->second.get();
}

RankGroups RankWorld::groups() const {
  return {.shard = group(MeshGroup::dp_shard_cp),
          .expert_shard = group(MeshGroup::expert_shard),
          .replicate = group(MeshGroup::dp_replicate),
          .tp = group(MeshGroup::tp),
          .pp = group(MeshGroup::pp),
          .world = &world_};
}

}  // namespace nereus
