// This rank in a world of ranks: its place in the mesh and the groups it works with.
#pragma once

#include <map>
#include <memory>

#include "comm/communicator.h"
#include "parallel/mesh.h"
#include "parallel/rank_groups.h"

namespace nereus {

class RankWorld {
 public:
  // A collective: splits `world`, which must outlive this, into the mesh's groups.
  RankWorld(const Mesh& mesh, Communicator& world);

  // Rank `rank` of a world that is not there (comm/meta_ranks.h).
  RankWorld(const Mesh& mesh, int rank);

  const Mesh& mesh() const { return mesh_; }
  Communicator& world() const { return world_; }
  int rank() const { return world_.rank(); }
  int ranks() const { return mesh_.world(); }
  int size(MeshGroup g) const { return mesh_.size(g); }
  int position(MeshGroup g) const { return mesh_.position(g, rank()); }
  Communicator* group(MeshGroup) const;  // null: this rank alone
  RankGroups groups() const;

 private:
  Mesh mesh_;
  std::unique_ptr<Communicator> meta_;  // the world that is not there
  Communicator& world_;
  std::map<MeshGroup, std::unique_ptr<Communicator>> groups_;
};

}  // namespace nereus
