// What the program that trains says of a run of the recipe before it is queued: recipe::RunCheck.
#pragma once

#include <map>
#include <string>

#include "recipe/run_facts.h"

namespace nereus {

// The same path as `nereus train --dry-run`. Asks once for runs that differ in their folders alone.
// `gpu_memory_gib`: of this cluster's GPUs by type, where they have another than the type's usual.
recipe::RunCheck run_check(std::map<std::string, double> gpu_memory_gib = {});

}  // namespace nereus
