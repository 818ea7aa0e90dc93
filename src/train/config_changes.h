// Can a checkpoint go on with a configuration? What the two differ in, key by key.
#pragma once

#include <string>
#include <vector>

#include "train/run_state.h"

namespace nereus {

struct ConfigChanges {
  std::vector<std::string> refused;  // the saved state has no meaning with it: "x: A there, B here"
  std::vector<std::string> said;     // the run goes on in another way
};

// `loads`: which parts of the state are loaded. What concerns one that is not is no change.
struct LoadedParts {
  bool optimizer = true, lr_scheduler = true, dataloader = true;
};
ConfigChanges config_changes(const RunState& saved, const RunState& now, const LoadedParts& loads);

}  // namespace nereus
