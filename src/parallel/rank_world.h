// This rank in a world of ranks: its place in the mesh and the groups it works with. A group of one
// rank is a group like any other (comm/single_rank.h): what is done in it costs nothing, and nobody
// asks whether there are others.
//
// Groups live as long as this, and a world that was given must outlive it. As communicators it
// belongs to one thread. Errors are those of the communicators.
#pragma once

#include <map>
#include <memory>
#include <span>

#include "comm/communicator.h"
#include "parallel/mesh.h"

namespace nereus {

class RankWorld {
 public:
  // One rank, alone.
  RankWorld();

  // A collective: splits `world`, of mesh.world() ranks, into the mesh's groups.
  RankWorld(const Mesh& mesh, Communicator& world);

  // Rank `rank` of a world that is not there (comm/meta_ranks.h): for measuring.
  RankWorld(const Mesh& mesh, int rank);

  // Those of a mesh that have a communicator.
  static std::span<const MeshGroup> groups();
  static GroupUse use_of(MeshGroup, std::span<const int> members);  // ranks of the world

  const Mesh& mesh() const { return mesh_; }
  Communicator& world() const { return world_; }
  int rank() const { return world_.rank(); }
  int ranks() const { return mesh_.world(); }
  int size(MeshGroup g) const { return mesh_.size(g); }
  int position(MeshGroup g) const { return mesh_.position(g, rank()); }

  // Of the groups that ranks talk in; those that only count (dp, dp_shard, dp_cp) are an
  // Error{kContract}.
  Communicator& group(MeshGroup) const;
  // The ranks that divide a parameter: of routed experts, or any other.
  static MeshGroup shard(bool experts) {
    return experts ? MeshGroup::expert_shard : MeshGroup::dp_shard_cp;
  }

  // Is this the rank of its tp group that counts what all of them have?
  bool first_of_tp() const { return position(MeshGroup::tp) == 0; }
  // data = its sum over all ranks that have different tokens: routing, which tp divides too.
  void sum_over_tokens(Stream&, TensorView data) const;

 private:
  Mesh mesh_;
  std::unique_ptr<Communicator> own_;  // the world that is not given
  Communicator& world_;
  std::map<MeshGroup, std::unique_ptr<Communicator>> groups_;
};

}  // namespace nereus
