#include "checkpoint/flat_state.h"

namespace nereus {

std::vector<FlatState> flat_states(Stream& stream, ParameterStore& store, bool load) {
  if (load) {
    store.begin_load();
  } else {
    store.assemble_masters(stream);
  }
  std::vector<FlatState> out{{.state = SavedState::model, .view = store.masters()}};
  const ParameterStates::Moments m = store.moments();
  if (!m.first) return out;
  out.push_back({.state = SavedState::first_moment, .view = m.first, .on_host = m.on_host});
  out.push_back({.state = SavedState::second_moment,
                 .view = m.second,
                 .on_host = m.on_host,
                 .drop_signs = m.has_signs && !load});
  return out;
}

}  // namespace nereus
