// Is a folder the same on all hosts of a run?
#pragma once

#include <chrono>
#include <string>

#include "comm/communicator.h"

namespace nereus {

// A collective: rank 0 writes a file into `folder`, and every rank must find it there; a file
// system may show it late. Throws Error{kConfig} that names the host which does not see it within
// `limit`, or says why rank 0 cannot write.
void check_shared_folder(const std::string& folder, Communicator& all, Stream&,
                         std::chrono::milliseconds limit = std::chrono::seconds(30));

}  // namespace nereus
