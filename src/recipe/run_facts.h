// A run of the recipe held against what it would be refused for, before a job is queued for it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "recipe/recipe_run.h"

namespace nereus::recipe {

// What the program that trains says of a run. The command line asks it: this layer knows nothing of
// models and of their memory.
struct RunFacts {
  std::vector<std::string> lines;  // its attention, memory and pipeline, a line each
  bool saves = false;              // checkpoints
  std::string too_large;           // why it does not fit into its GPUs; "": it does, or has none
  struct Missing {
    std::string path;  // "": none is named
    std::string text;
  };
  std::vector<Missing> missing;  // what it reads and is not on this machine
};

// Throws Error{kConfig} for what the run itself would refuse.
using RunCheck = std::function<RunFacts(const RecipeRun&)>;

enum class Purpose {
  look,    // --dry-run: what is not on this machine may be on another
  queue,   // the job runs on other machines, which see this installation as this one does
  launch,  // the job runs here
};

// Throws Error{kConfig} for a run that cannot be: it does not fit (`force`: a warning), or what it
// reads is not there. Of files that only the job's own machines may have, and with Purpose::look of
// all, that is a warning. Returns the warnings.
std::vector<std::string> hold(const RunFacts&, const RecipeRun&, Purpose, bool force);

}  // namespace nereus::recipe
