// A copy in host memory of what a rank writes to a checkpoint, from which a thread of its own
// writes while steps go on. Its memory is made once; its size is that of the rank's shard.
//
// States are copied as they are kept, wherever that is, slice after slice in the order of the
// update: nothing is computed for it and no memory of the device is used. On a GPU that happens
// beside the next step, on a stream of its own (states in host memory: on the writer's thread), and
// the update of a slice waits for that slice (parallel/copy_beside.h). On the CPU the stream's
// threads copy everything at once. Masters in two parts are put together in the copy.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "checkpoint/shard_save.h"
#include "device/host_memory.h"
#include "parallel/parameter_store.h"

namespace nereus {

class Snapshot {
 public:
  static int64_t bytes_of(const RankSlices&, const ParameterStore&,
                          std::span<const NamedView> extras);

  // What this rank writes of the store's states, and of tensors besides (f32, on the device).
  struct Options {
    bool beside = false;               // copies go on after take(); on a GPU always
    int64_t slice = int64_t{8} << 20;  // elements that are copied, and updated, together
  };
  Snapshot(const RankSlices&, const ParameterStore&, std::span<const NamedView> extras,
           const Stream&, const Options&);
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  HostMemory& memory() { return memory_; }  // made before the first take()

  // Begins the copy of the states, and of the extras, as they are now: before anything else is
  // enqueued on the stream that changes them. No step waits on the host.
  void take(ParameterStore&, std::span<const NamedView> extras, Stream&);
  // Its rest, on any one thread, with a stream of the CPU: the copy is there when it returns.
  void finish(Stream& host);

  // The copy, for save_shard() with a stream of the CPU.
  ShardContents contents() const {
    return {.slices = slices_, .states = states_, .extras = extras_};
  }

 private:
  // Elements that are together in all flat buffers; `to`: in the copy.
  struct Run {
    size_t kept = 0;  // of ParameterStore::kept_states()
    int64_t flat = 0, to = 0, count = 0;
    bool split = false;  // [copies, remainders] in the place of masters
  };
  struct Copy {
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    int64_t bytes = 0;
  };
  void make_runs(const RankSlices&, const ParameterStore&, int64_t slice);
  void put_together(const Run&, Stream& host, std::vector<float>& masters) const;

  RankSlices slices_;  // those that are written, in the copy
  std::vector<Run> runs_;
  bool beside_;
  bool has_signs_ = false;
  HostMemory memory_;
  std::vector<FlatState> states_;
  std::vector<NamedView> extras_;
  std::unique_ptr<Stream> copier_;  // a GPU's

  // Of the copy that goes on.
  std::shared_ptr<CopyBeside> progress_;
  std::vector<std::vector<Copy>> on_host_;  // by run: of states in host memory
  Event begin_, extras_there_;
};

}  // namespace nereus
