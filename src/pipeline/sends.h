// How many messages of one rank to another have to wait at once.
//
// A rank's list of actions runs in order. Where sends do not wait for their receivers without
// bound, but for memory in which a message lies until its receiver takes it, ranks can wait in a
// circle: each for memory, with what the other waits for behind it in its list.
#pragma once

#include "pipeline/schedule.h"

namespace nereus {

// The least number of waiting messages of any sender and receiver with which the step comes to its
// end; 0 without messages. Throws Error{kContract} for lists that never do.
int sends_needed(const Schedule&);

// For how many a rank makes memory: more than have to wait, so that the host stays ahead.
int messages_waiting(const Schedule&);

}  // namespace nereus
