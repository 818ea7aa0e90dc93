// A rank's states from a checkpoint of any layout: of every slice that the rank keeps, the parts of
// saved slices that make it up are read by several threads, in chunks, into the flat buffers. Types
// are converted.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "checkpoint/flat_state.h"
#include "checkpoint/rank_slices.h"
#include "parallel/named_view.h"

namespace nereus {

struct LoadTargets {
  const RankSlices& slices;
  std::span<const FlatState> states;
  std::span<const NamedView> extras = {};  // whole f32 tensors besides parameters, on the device
  bool counts_extras = false;              // this rank's checksum of them is the world's
  int threads = 0;                         // that read; 0: by the bytes (chunk_threads.h)
};

// Are the tensors those of the model, each with its shape, of all `states`? `extras` are there as
// SavedState::model alone. Throws Error{kConfig} that lists what is missing, has another shape or
// is surplus.
void check_tensors(const Manifest&, const std::string& folder, std::span<const Parameter> model,
                   std::span<const Parameter> extras, std::span<const SavedState> states);

// Fills the targets. Returns this rank's part of the checksum of every tensor of the manifest: the
// sums over all ranks of a world are Manifest::Tensor::checksum(). Throws Error{kIo} for a file
// that cannot be read or ends too early.
std::vector<uint64_t> load_states(const std::string& folder, const Manifest&, const LoadTargets&,
                                  Stream&);

}  // namespace nereus
