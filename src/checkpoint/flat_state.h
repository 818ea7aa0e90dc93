// The states of a rank's parameters as saving and loading see them: flat buffers in the order of
// StoreLayout, on the stream's device or in host memory.
#pragma once

#include <vector>

#include "checkpoint/manifest.h"
#include "parallel/parameter_store.h"

namespace nereus {

struct FlatState {
  SavedState state = SavedState::model;
  TensorView view;          // f32 or bf16 [elements]
  bool on_host = false;     // else on the stream's device
  bool drop_signs = false;  // of what is saved: a second moment's sign may be another's
};

// Masters, which are put together where they are not whole, and moments where there are any. Valid
// until the next step begins. With `load` masters are there to be filled, and
// ParameterStore::refresh_copies() must follow.
std::vector<FlatState> flat_states(Stream&, ParameterStore&, bool load);

}  // namespace nereus
