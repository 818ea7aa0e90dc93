// Communicators of processes on host memory over anything that carries bytes between two of them:
// the protocol is here, once, and a transport (MPI, sockets) only moves bytes.
//
// A collective costs each rank a message to each other rank, which says what it calls, so that
// ranks that disagree or do not come are known by name before any data moves; and then the data,
// pairwise. For reductions each rank sums a block, in the order of ranks, and sends it to all. That
// is for tens of ranks and for clarity; GPUs have NCCL.
#pragma once

#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/call.h"
#include "comm/communicator.h"
#include "control/world.h"

namespace nereus {

// Bytes that came. `owned` where they are the receiver's from here on; otherwise they stay until
// the transport receives again.
struct Received {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
  std::unique_ptr<std::byte[]> owned;
};

// Moves bytes between this rank and each other rank of one group, in order for each pair and
// direction. Ranks are those of the group. Of one thread.
class PairwiseTransport {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~PairwiseTransport() = default;

  virtual std::string library() const = 0;

  // Of collectives. What is sent must stay until all_sent().
  virtual void send(int to, const std::byte* data, int64_t bytes) = 0;
  virtual bool all_sent() = 0;
  // Expects `bytes`, more than 0, from there. They are written to `into` at once where the
  // transport can do that, and found there or elsewhere by received().
  virtual void receive(int from, std::byte* into, int64_t bytes) = 0;
  virtual void receive_from_all(int64_t bytes) = 0;  // the same from each, into memory of its own
  virtual bool arrived(int from) = 0;                // what is expected from there
  virtual Received received(int from) = 0;           // once it has arrived

  // Between two ranks. post() copies head and body, which arrive as one; take() is false when
  // nothing has come from there.
  virtual int64_t most_posted() const { return std::numeric_limits<int64_t>::max(); }  // bytes
  virtual void post(int to, std::span<const std::byte> head, std::span<const std::byte> body) = 0;
  virtual bool take(int from, Received& message) = 0;

  // Until done(), which may call arrived(), all_sent() and take() and is called again and again;
  // `hopeless` may call has_left() only.
  enum class Outcome : uint8_t {
    done,
    late,      // the deadline is over
    failed,    // the world has ended, or does so
    hopeless,  // hopeless()
  };
  virtual Outcome wait(Clock::time_point deadline, FunctionRef<bool()> done,
                       FunctionRef<bool()> hopeless) = 0;
  // Will send nothing any more. Within hopeless() and between waits.
  virtual bool has_left(int) const { return false; }
  // When an exception breaks off what was begun: nothing is sent any more from memory that may go,
  // nor received into it. Does not throw.
  virtual void forget() = 0;

  // A transport of the part of this group that has the color, or null for -1. A collective of the
  // group, all of whose ranks are here; `number` is the same on all of them and no other split's.
  virtual std::unique_ptr<PairwiseTransport> split(int64_t number, int color, int key,
                                                   const std::vector<int>& members) = 0;
};

// All ranks of the world, which must outlive the groups. One such for a world.
std::unique_ptr<Communicator> pairwise_ranks(World&, std::unique_ptr<PairwiseTransport>);

}  // namespace nereus
