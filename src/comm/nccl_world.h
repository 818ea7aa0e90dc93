// What all NCCL groups of one rank share: the library's communicators and the thread that watches
// them. Included by files that end in _nccl.cc only.
//
// NCCL's communicators are used in its non-blocking mode, so that no thread is ever inside NCCL
// when another wants to abort: whoever waits for NCCL polls, and one mutex guards every call.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "comm/call.h"
#include "comm/nccl_library.h"
#include "comm/peers.h"

namespace nereus {

void check_cuda(cudaError_t, const char* call);

class NcclWorld {
 public:
  using Lock = std::unique_lock<std::mutex>;

  // Work of a group that was enqueued, and two places in its stream.
  struct Pending {
    Call call;
    cudaEvent_t begin = nullptr, end = nullptr;
    bool begun = false;
    std::chrono::steady_clock::time_point since;
  };
  struct Group {
    std::string name;
    std::vector<int> members;   // ranks of the world
    ncclComm_t comm = nullptr;  // null after an abort
    std::deque<Pending> pending;
  };

  NcclWorld(Peers& peers, int device, std::chrono::milliseconds timeout);
  ~NcclWorld();
  NcclWorld(const NcclWorld&) = delete;
  NcclWorld& operator=(const NcclWorld&) = delete;

  Peers& peers() { return peers_; }
  int device() const { return device_; }
  std::chrono::milliseconds timeout() const { return std::chrono::milliseconds(timeout_ms_); }
  void set_timeout(std::chrono::milliseconds t) { timeout_ms_ = t.count(); }
  void set_step(int64_t);

  // A group of `members`, in which this rank has number `rank`. A collective of the group.
  Group* open(const std::string& name, std::vector<int> members, int rank, const ncclUniqueId&);
  // The rest of `parent` with the same color, by key. Null for color -1. A collective.
  Group* split(Group& parent, const std::string& name, std::vector<int> members, int color,
               int key);
  void close(Group*);

  // Enqueues what `work` calls, which returns NCCL's result, as `call` of the group.
  void enqueue(Group&, cudaStream_t, const Call&, const std::function<ncclResult_t(ncclComm_t)>&);

  // Throws what the world ended with, if it has.
  void check();
  // Ends the world.
  [[noreturn]] void fail(const std::string& reason);
  void abort_all();

 private:
  ncclConfig_t config() const;
  void settle(Lock&, Group&, ncclResult_t, const char* what);
  void watch();
  std::string look(Group&);  // "" when all is well
  std::string late_text(const Group&, const Pending&);
  cudaEvent_t take_event();

  const NcclLibrary& nccl_;
  Peers& peers_;
  const int device_;
  std::atomic<int64_t> timeout_ms_, step_{-1};
  std::atomic<bool> stopping_{false}, aborted_{false};

  std::mutex now_mutex_;
  RankActivity now_;  // what this rank does, for messages

  std::mutex mutex_;  // of what follows, and of every call of NCCL
  std::list<Group> groups_;
  std::vector<cudaEvent_t> events_;  // that can be used again
  std::thread watcher_;
};

}  // namespace nereus
