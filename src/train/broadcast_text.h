// Text from one rank to all of a group.
#pragma once

#include <string>

#include "comm/communicator.h"

namespace nereus {

// A collective: rank `root`'s text, on every rank.
std::string broadcast_text(std::string text, int root, Communicator&, Stream&);

}  // namespace nereus
