// One rank's shard of a checkpoint: what RankSlices says that it writes of its states, as a
// safetensors file. A tensor of the file is a slice (or a parameter, where the rank keeps all of
// it) under the parameter's name, moments with "exp_avg." or "exp_avg_sq." before it, and a second
// slice of the same parameter with "#1" behind it. The file's metadata says where partial ones
// begin.
//
// Besides the states themselves a few chunks of memory are used, whatever the sizes.
#pragma once

#include <span>
#include <string>

#include "checkpoint/flat_state.h"
#include "checkpoint/rank_slices.h"
#include "parallel/named_view.h"

namespace nereus {

struct ShardContents {
  const RankSlices& slices;
  std::span<const FlatState> states;
  std::span<const NamedView> extras = {};  // whole f32 tensors of the model besides parameters, on
                                           // the stream's device, which this rank writes
  DType model_dtype = DType::f32;          // of the masters in the file: f32, bf16 or f16
  int threads = 0;                         // that make chunks; 0: by the bytes (chunk_threads.h)
};

// Writes `folder`/`name` and returns this rank's part of the manifest; no file when it has nothing
// to write. Throws Error{kIo}: nothing of the file is left then.
Manifest save_shard(const std::string& folder, const std::string& name, const ShardContents&,
                    Stream&);

}  // namespace nereus
