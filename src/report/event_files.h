// TensorBoard's event files, as PyTorch, TorchTitan and Nereus write them: records of a length
// (u64), its checksum, a serialized tensorflow.Event and its checksum. Scalars and texts are read,
// the rest is passed over.
#pragma once

#include <string>
#include <vector>

#include "report/run_builder.h"

namespace nereus::report {

// events.out.tfevents.* below a folder, by their names, which begin with the time; none: the folder
// has none.
std::vector<std::string> event_files(const std::string& folder);

// All records of the files in their order, up to the first in each that is torn or has a wrong
// checksum.
void read_event_files(const std::vector<std::string>& paths, Run& run, RunBuilder& builder);

// metrics.jsonl's name of TorchTitan's tag; the tag itself of another.
std::string name_of_tag(const std::string& tag);

}  // namespace nereus::report
