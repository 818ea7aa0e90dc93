// A copy in host memory of what a rank writes to a checkpoint, from which a thread of its own
// writes while steps go on. Made once; its size is that of the rank's shard.
#pragma once

#include <span>
#include <vector>

#include "checkpoint/shard_save.h"

namespace nereus {

class Snapshot {
 public:
  // Bytes of a copy of these contents.
  static int64_t bytes(const ShardContents&);

  // Memory for contents of this kind, pinned for a GPU.
  Snapshot(const ShardContents&, const Stream&);
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  // Copies the contents, of the same slices and states as at first: enqueued on the stream, which
  // must have passed it before contents() is read.
  void take(const ShardContents&, Stream&);

  // The copy, for save_shard() with a stream of the CPU.
  ShardContents contents() const;

 private:
  RankSlices slices_;         // those that are written, one after the other
  std::vector<size_t> from_;  // by slice of slices_: which it was
  DType model_dtype_;
  std::vector<Buffer> memory_;  // by state, then of the extras
  std::vector<FlatState> states_;
  std::vector<NamedView> extras_;
};

}  // namespace nereus
