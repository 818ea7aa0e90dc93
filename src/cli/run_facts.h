// What the program that trains says of a run of the recipe before it is queued: recipe::RunCheck.
#pragma once

#include "recipe/run_facts.h"

namespace nereus {

// The same path as `nereus train --dry-run`. Asks once for runs that differ in their folders alone.
recipe::RunCheck run_check();

}  // namespace nereus
