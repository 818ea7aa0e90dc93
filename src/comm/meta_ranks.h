// A group of ranks that are not there: for running a step on the meta device as one rank of a
// layout, to know its sizes.
#pragma once

#include "comm/communicator.h"

namespace nereus {

// Any collective on a meta stream does nothing, as everywhere; on another it is an
// Error{kContract}. `members`: ranks of the world, of which this one is members[rank].
std::unique_ptr<Communicator> meta_ranks(const std::string& name, std::vector<int> members,
                                         int rank);

}  // namespace nereus
