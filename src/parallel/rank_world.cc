#include "parallel/rank_world.h"

namespace nereus {

RankWorld::RankWorld(const Mesh& mesh, Communicator& world) : mesh_(mesh), world_(world) {
  for (const MeshGroup g : {MeshGroup::pp, MeshGroup::dp_replicate, MeshGroup::cp, MeshGroup::tp,
                            MeshGroup::dp_shard_cp, MeshGroup::ep, MeshGroup::expert_shard,
                            MeshGroup::expert_tp, MeshGroup::cp_tp}) {
    if (mesh.size(g) == 1) continue;
    groups_[g] = world.split(name_of(g), mesh.index(g, rank()), mesh.position(g, rank()));
  }
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
          .pp = group(MeshGroup::pp)};
}

}  // namespace nereus
