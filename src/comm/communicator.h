// A group of ranks and what they do together. Every rank of the group calls the same collectives in
// the same order with the same types and shapes; ranks that do not are named in the error, and a
// rank that does not come within the world's time-out ends the others with a message that names it.
// What concerns all ranks at once (time-outs, steps, failures) is the world's: control/world.h.
//
//   all_reduce      data[i] = sum over ranks of data[i], or their maximum; in place
//   all_gather      out = the ranks' `in`, one after the other by rank
//   reduce_scatter  out = the sum (maximum) over ranks of block rank() of `in`, which has size()
//                   blocks of out's size
//   all_to_all      rows: the next send_rows[r] rows of `in` go to rank r, and the rows of out are
//                   what rank 0 sent, then rank 1, and so on
//   broadcast       data of rank `root` to all
//   send, recv      between two ranks, in order for each pair and direction; send does not wait for
//                   the other side: what is sent may be overwritten by what is enqueued next
//
// Order of sums: ((x0 + x1) + x2) + ..., by rank, in f32 for f32 and bf16 (rounded once, at the
// end), in f64 for f64; integers wrap. So all ranks get the same bits, and so does every run. A
// maximum with NaN is NaN. This holds for the backends on host memory (threads, MPI, sockets);
// NCCL's says its own.
//
// Tensors are contiguous, on the stream's device. Reductions take f32, bf16, f64, i32 and i64;
// everything else any type. `in` of all_gather may be its own block of out, and out of
// reduce_scatter its own block of `in`; otherwise arguments do not overlap. On the meta device
// nothing is exchanged.
//
// Errors: Error{kContract} for arguments that are wrong by themselves; Error{kComm} for ranks that
// disagree (everybody's call is listed), for a rank that did not arrive (with what it did last) and
// for one that failed (with its message). After an Error{kComm} no group of the world can be used.
//
// A communicator belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/window.h"
#include "device/device.h"

namespace nereus {

enum class ReduceOp : uint8_t { sum, max };

// Ranks are numbered by host, so many to a host at most: beyond them is a network.
inline constexpr int kMostGpusOfAHost = 8;
constexpr bool crosses_hosts(std::span<const int> ranks) {
  for (const int r : ranks)
    if (r / kMostGpusOfAHost != ranks.front() / kMostGpusOfAHost) return true;
  return false;
}

// How a group's collectives are used: somebody waits for them; they run concurrently with kernels;
// or they pass records of some bytes. On a GPU they take most_sms() SMs at most, and NCCL keeps
// memory for as many channels (comm/nccl_memory.h).
enum class GroupUse : uint8_t { foreground, background, records };
inline constexpr int kBackgroundSms = 8;
constexpr int most_sms(GroupUse use) {
  return use == GroupUse::foreground ? 24 : use == GroupUse::background ? kBackgroundSms : 2;
}

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  const std::string& name() const { return name_; }
  // The ranks' ranks in the world, by rank in this group.
  const std::vector<int>& members() const { return members_; }

  // A collective: groups of those with the same color, ranked by key and then by rank here. Null
  // for color -1. `name` is for messages.
  std::unique_ptr<Communicator> split(const std::string& name, int color, int key,
                                      GroupUse use = GroupUse::foreground);

  void all_reduce(Stream&, TensorView data, ReduceOp op = ReduceOp::sum);
  void all_gather(Stream&, TensorView out, ConstTensorView in);
  void reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp op = ReduceOp::sum);
  // Rows are along dim 0. The counts are host memory, size() of each; out and in have at least
  // their sums.
  void all_to_all(Stream&, TensorView out, ConstTensorView in, std::span<const int64_t> send_rows,
                  std::span<const int64_t> recv_rows);
  void broadcast(Stream&, TensorView data, int root);
  void send(Stream&, ConstTensorView data, int to);
  void recv(Stream&, TensorView data, int from);
  void barrier(Stream&);

  // A collective: makes ready for messages of up to so many bytes between pairs (sender, receiver),
  // the same on all ranks, so that nothing is made in the middle of a step, nor waited for by a
  // sender with less than `waiting` messages that their receiver has not taken.
  virtual void connect(std::span<const std::pair<int, int>> /*pairs*/, int64_t /*bytes*/,
                       int /*waiting*/) {}

  // What moves this group's tensors, for the start-up summary: "threads", "NCCL 2.28.9". It is the
  // group's own, not the world's: one world may have groups of GPUs and groups on host memory.
  virtual std::string library() const = 0;
  // Can all ranks of the group see each other's memory? The same answer on all.
  virtual bool shares_memory() const { return false; }
  // A collective, where shares_memory(): a block of `bytes`, as many on every rank (Error{kComm}
  // otherwise). It goes before its group.
  std::unique_ptr<Window> window(Stream&, int64_t bytes);

 protected:
  Communicator(std::string name, std::vector<int> members, int rank)
      : name_(std::move(name)), members_(std::move(members)), rank_(rank) {}

  // Arguments are checked; the stream is not on the meta device.
  virtual std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                                 GroupUse) = 0;
  virtual void do_all_reduce(Stream&, TensorView data, ReduceOp) = 0;
  virtual void do_all_gather(Stream&, TensorView out, ConstTensorView in) = 0;
  virtual void do_reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp) = 0;
  virtual void do_all_to_all(Stream&, TensorView out, ConstTensorView in,
                             std::span<const int64_t> send_rows,
                             std::span<const int64_t> recv_rows) = 0;
  virtual void do_broadcast(Stream&, TensorView data, int root) = 0;
  virtual void do_send(Stream&, ConstTensorView data, int to) = 0;
  virtual void do_recv(Stream&, TensorView data, int from) = 0;
  virtual void do_barrier(Stream&) = 0;
  virtual std::unique_ptr<Window> do_window(Stream&, int64_t bytes);

 private:
  void check(const Stream&, const char* what, ConstTensorView) const;

  std::string name_;
  std::vector<int> members_;
  int rank_;
};

}  // namespace nereus
