// Messages between the processes of a world: one TCP connection for each pair and direction,
// opened when it is first used, and one thread that moves bytes. What has come waits in memory
// until it is taken, so that no rank waits for another to read.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/pairwise_ranks.h"
#include "control/control_plane.h"
#include "device/thread_pool.h"

namespace nereus {

class SocketMesh {
 public:
  struct Tag {
    uint64_t group = 0;
    uint32_t channel = 0;
    auto operator<=>(const Tag&) const = default;
  };
  struct Message {
    std::unique_ptr<std::byte[]> data;
    size_t size = 0;
  };

  // All ranks of the control plane's world; `timeout` is for a peer's address and connection.
  SocketMesh(ControlPlane&, std::chrono::milliseconds timeout);
  // Returns when all that was sent has been given to the network, or the world has failed.
  ~SocketMesh();
  SocketMesh(const SocketMesh&) = delete;
  SocketMesh& operator=(const SocketMesh&) = delete;

  // In order for each rank and tag. The bytes must stay until `*unsent`, which goes up here, has
  // come down again.
  void send(int to, Tag, std::span<const std::byte>, int* unsent);
  // Head and body as one message, copied.
  void post(int to, Tag, std::span<const std::byte> head, std::span<const std::byte> body);

  // Waits for done(), which may use what follows and nothing else of the mesh. `hopeless` is asked
  // when a rank has left.
  using Outcome = PairwiseTransport::Outcome;
  Outcome wait(tcp::Clock::time_point deadline, FunctionRef<bool()> done,
               FunctionRef<bool()> hopeless);
  bool take(int from, Tag, Message& out);  // within done(): false when there is none
  bool has_left(int rank) const;           // within hopeless(), and between waits

  // After a failure: forgets what is still to be sent, so that its memory may go.
  void forget();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
