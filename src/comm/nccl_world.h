// What all NCCL groups of one rank share: the library's communicators and the thread that watches
// them. Included by files that end in _nccl.cc only.
//
// A thread that is inside NCCL cannot be got out of it, so calls that might wait for other ranks
// there (the start of a group, the first exchange by send and recv) come after a meeting of the
// group through its world, which has a time-out. All other calls enqueue and return. After the
// world's failure nothing is certain to come back, destructors included: launch/end_guard.h.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/call.h"
#include "comm/nccl_library.h"
#include "control/world.h"

namespace nereus {

void check_cuda(cudaError_t, const char* call);

class NcclWorld {
 public:
  // Work of a group that was enqueued, and two places in its stream.
  struct Pending {
    Call call;
    cudaEvent_t begin = nullptr, end = nullptr;
    bool begun = false;
    std::chrono::steady_clock::time_point since;
  };
  struct Group {
    std::string name;
    std::string id;            // the same on all its ranks, and no other group's
    std::vector<int> members;  // ranks of the world
    int rank = 0;

    std::mutex mutex;           // of what follows, and of all calls of NCCL for the group
    ncclComm_t comm = nullptr;  // null after an abort
    std::deque<Pending> pending;
  };
  using Work = std::function<ncclResult_t(ncclComm_t)>;

  NcclWorld(World& world, int device);
  ~NcclWorld();
  NcclWorld(const NcclWorld&) = delete;
  NcclWorld& operator=(const NcclWorld&) = delete;

  World& world() { return world_; }
  int device() const { return device_; }

  // A group of `members`, in which this rank has number `rank`. A collective of the group. Its
  // calls take `sm_count` SMs at most.
  Group* open(const std::string& name, const std::string& id, std::vector<int> members, int rank,
              int sm_count);
  // The ranks of `parent` with the same color, by key; all of parent's are here. Null for color -1.
  Group* split(Group& parent, const std::string& name, const std::string& id,
               std::vector<int> members, int rank, int color, int key, int sm_count);
  void close(Group*);

  // Waits for all ranks of the group, once for each `what`.
  void meet(const Group&, const std::string& what);
  // Enqueues what `work` calls, as `call` of the group.
  void enqueue(Group&, cudaStream_t, const Call&, const Work&);

  // Host memory that kernels read: not 0 once the world has ended. What waits on the device for
  // other ranks looks at it.
  const int* ended_word() const { return ended_word_; }

  // Ends the world, unless another rank's death does within a second.
  [[noreturn]] void fail(const std::string& reason);

 private:
  void abort_all();
  Group& add(const std::string& name, const std::string& id, std::vector<int> members, int rank);
  void check_nccl(const Group&, ncclResult_t, const std::string& what);
  void watch();
  std::string look(Group&);  // "" when all is well
  std::string late_text(const Group&, const Pending&);
  cudaEvent_t take_event();
  void give_events(const Pending&);

  const NcclLibrary& nccl_;
  World& world_;
  const int device_;
  std::atomic<bool> stopping_{false}, aborted_{false};
  int* ended_word_ = nullptr;

  CurrentActivity activity_;  // what this rank does, for messages

  std::mutex groups_mutex_;  // may be taken before a group's, not the other way round
  std::list<std::shared_ptr<Group>> groups_;
  std::mutex events_mutex_;
  std::vector<cudaEvent_t> events_;    // that can be used again
  std::vector<std::thread> aborters_;  // one a group, after a failure
  std::thread watcher_;
};

}  // namespace nereus
