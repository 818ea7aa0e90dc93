// A group of one rank: what a run on one device has in place of ranks that talk to each other, so
// that callers need no special case. It works on every device and in any thread.
//
//   all_reduce, broadcast, barrier           nothing is enqueued: the result is there already
//   all_gather, reduce_scatter, all_to_all   one copy on the stream, none where out is in
//   split                                    another group of one; null for color -1
//   window                                   a block of its own; its meetings enqueue nothing
//   send, recv                               Error{kContract}: there is nobody else
//
// Errors otherwise are those of communicator.h.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "control/local_world.h"

namespace nereus {

// `member` is the rank's number in the world, which members() tells.
std::unique_ptr<Communicator> single_rank(const std::string& name, int member = 0);

// A run of one rank, alone: its group of all ranks and its world.
struct OneRank {
  LocalWorld world{1, std::chrono::seconds(300)};
  std::unique_ptr<Communicator> all = single_rank("world");
};

}  // namespace nereus
