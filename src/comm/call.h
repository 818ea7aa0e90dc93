// What a rank calls, small and flat, so that ranks can show each other: the backends on host memory
// compare these before they move a byte, and put them into messages about who is missing.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace nereus {

struct Call {
  enum class Kind : int32_t {
    none,
    all_reduce,
    all_gather,
    reduce_scatter,
    all_to_all,
    broadcast,
    barrier,
    split,
    send,
    recv,
  };
  Kind kind = Kind::none;
  ReduceOp op = ReduceOp::sum;  // of reductions
  DType dtype = DType::u8;
  int16_t rank = 0;       // of `shape`
  int64_t number = 0;     // the group's how-manieth collective; of send and recv, the pair's
  int64_t shape[4] = {};  // per rank; dim 0 of all_to_all, which may differ, is left out (-1)
  int64_t peer = -1;      // the root of broadcast, the other rank of send and recv
  bool operator==(const Call&) const = default;

  static Call of(Kind, ConstTensorView, int64_t number, ReduceOp = ReduceOp::sum,
                 int64_t peer = -1);
  std::string to_string() const;  // all_reduce number 3 (sum) of f32 [4, 8]
};

// Numbers the calls of one rank in one group: collectives by themselves, messages by peer.
class CallCounter {
 public:
  explicit CallCounter(int ranks)
      : sent_(static_cast<size_t>(ranks)), received_(static_cast<size_t>(ranks)) {}
  Call collective(Call::Kind kind, ConstTensorView x = {}, ReduceOp op = ReduceOp::sum,
                  int root = -1) {
    return Call::of(kind, x, ++collectives_, op, root);
  }
  Call send(ConstTensorView x, int to) {
    return Call::of(Call::Kind::send, x, ++sent_[static_cast<size_t>(to)], ReduceOp::sum, to);
  }
  Call recv(ConstTensorView x, int from) {
    return Call::of(Call::Kind::recv, x, ++received_[static_cast<size_t>(from)], ReduceOp::sum,
                    from);
  }
  // For what is numbered with the collectives and is none: a window.
  int64_t next() { return ++collectives_; }
  int64_t collectives() const { return collectives_; }

 private:
  int64_t collectives_ = 0;
  std::vector<int64_t> sent_, received_;  // by peer
};

// "" when all ranks call the same; otherwise the message: who calls what.
std::string disagreement(const std::string& group, std::span<const int> members,
                         std::span<const Call> calls);

// "" when what rank r sends to rank s is what s expects from r, for all pairs. counts[r] are rank
// r's send_rows and then its recv_rows.
std::string row_disagreement(const std::string& group, std::span<const int> members,
                             const Call& call, std::span<const int64_t* const> counts);

// For a receiver: "" when `sent` fits `expected`.
std::string message_disagreement(const std::string& group, std::span<const int> members, int from,
                                 int to, const Call& sent, const Call& expected);

// What a rank is doing, for the messages of other ranks.
struct RankActivity {
  std::string group;
  Call call;
  bool inside = false;            // the call has not returned
  bool ended = false;             // the rank's work is over
  int64_t step = -1;              // -1: not said
  std::string to_string() const;  // "waiting in recv number 2 from rank 1 of group pp"
};

// The same as the rank's own thread goes on, for others that ask.
class CurrentActivity {
 public:
  void enter(const std::string& group, const Call&);
  void leave();
  void end();  // the rank's work is over
  RankActivity at(int64_t step) const;

 private:
  mutable std::mutex mutex_;
  RankActivity now_;
};

struct MissingRank {
  int rank = 0;  // in the group
  std::string activity;
};

// The message of a time-out, or (seconds < 0) of ranks that will never come. step -1: not known.
std::string time_out_message(const std::string& group, std::span<const int> members,
                             const Call& call, double seconds, std::span<const MissingRank> missing,
                             int64_t step = -1);

// rank 2 (rank 6 of the world); without the parenthesis where they are the same.
std::string rank_text(std::span<const int> members, int rank);

}  // namespace nereus
