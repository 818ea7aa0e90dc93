// The folder of a run, and where weights come from and go to.
#pragma once

#include <optional>
#include <string>

#include "config/job_config.h"

namespace nereus {

// Makes job.dump_folder and checks that it can be written to; sets an earlier run's metrics.jsonl
// aside as metrics.1.jsonl, .2, ... Throws Error{kConfig}.
void prepare_run_folder(const JobConfig&);

// {dump_folder}/{checkpoint.folder}/step-{N}
std::string checkpoint_folder(const JobConfig&, int64_t step);

// The Hugging Face weights that the run starts from, if any: the newest complete save of its own
// folder, else checkpoint.initial_load_path (or model.hf_assets_path). Logs when the first hides
// the second.
std::optional<std::string> initial_weights(const JobConfig&);

// Should step lines have colours?
bool log_in_color(const JobConfig&);

}  // namespace nereus
