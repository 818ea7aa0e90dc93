#include "comm/socket_ranks.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>
#include <vector>

#include "comm/pairwise_ranks.h"
#include "comm/socket_mesh.h"

namespace nereus {
namespace {

constexpr uint32_t kCollective = 1, kMessage = 2;  // channels of a group

// Groups are told apart by numbers that their ranks find without asking each other.
uint64_t child_id(uint64_t parent, int64_t split, int color) {
  uint64_t x = parent;
  for (const uint64_t v : {static_cast<uint64_t>(split), static_cast<uint64_t>(color)}) {
    x = (x ^ v) + 0x9e3779b97f4a7c15;  // splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    x ^= x >> 31;
  }
  return x;
}

class SocketTransport final : public PairwiseTransport {
 public:
  SocketTransport(std::shared_ptr<SocketMesh> mesh, uint64_t id, std::vector<int> members)
      : mesh_(std::move(mesh)), id_(id), members_(std::move(members)), came_(members_.size()) {}

  std::string library() const override { return "sockets"; }

  void send(int to, const std::byte* data, int64_t bytes) override {
    mesh_->send(member(to), {id_, kCollective}, {data, static_cast<size_t>(bytes)}, &unsent_);
  }
  bool all_sent() override { return unsent_ == 0; }

  // The mesh receives whatever comes.
  void receive(int, std::byte*, int64_t) override {}
  void receive_from_all(int64_t) override {}
  bool arrived(int from) override {
    return mesh_->take(member(from), {id_, kCollective}, came_[static_cast<size_t>(from)]);
  }
  Received received(int from) override { return given(came_[static_cast<size_t>(from)]); }

  void post(int to, std::span<const std::byte> head, std::span<const std::byte> body) override {
    mesh_->post(member(to), {id_, kMessage}, head, body);
  }
  bool take(int from, Received& message) override {
    SocketMesh::Message m;
    if (!mesh_->take(member(from), {id_, kMessage}, m)) return false;
    message = given(m);
    return true;
  }

  Outcome wait(Clock::time_point deadline, FunctionRef<bool()> done,
               FunctionRef<bool()> hopeless) override {
    return mesh_->wait(deadline, done, hopeless);
  }
  bool has_left(int rank) const override { return mesh_->has_left(member(rank)); }
  void forget() override {
    mesh_->forget();
    unsent_ = 0;
  }

  std::unique_ptr<PairwiseTransport> split(int64_t number, int color, int /*key*/,
                                           const std::vector<int>& members) override {
    if (color < 0) return nullptr;
    return std::make_unique<SocketTransport>(mesh_, child_id(id_, number, color), members);
  }

 private:
  int member(int r) const { return members_[static_cast<size_t>(r)]; }
  static Received given(SocketMesh::Message& m) {
    const std::byte* data = m.data.get();
    return {data, static_cast<int64_t>(m.size), std::move(m.data)};
  }

  std::shared_ptr<SocketMesh> mesh_;
  const uint64_t id_;
  const std::vector<int> members_;
  int unsent_ = 0;
  std::vector<SocketMesh::Message> came_;  // of collectives, by rank
};

}  // namespace

std::unique_ptr<Communicator> socket_ranks(ControlPlane& control, World& world) {
  auto mesh = std::make_shared<SocketMesh>(
      control, std::max(world.timeout(), std::chrono::milliseconds(1000)));
  std::vector<int> all(static_cast<size_t>(world.size()));
  std::iota(all.begin(), all.end(), 0);
  return pairwise_ranks(world, std::make_unique<SocketTransport>(std::move(mesh), 1, all));
}

}  // namespace nereus
