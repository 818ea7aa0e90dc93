// What a run starts from: the newest complete checkpoint of its own folder that can be gone on
// from, else what checkpoint.initial_load_path (or initial_load_in_hf) names, else its seed.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/manifest.h"
#include "config/job_config.h"
#include "control/world.h"
#include "train/config_changes.h"
#include "train/run_state.h"

namespace nereus {

struct CheckpointStart {
  enum class Kind : uint8_t {
    seed,          // initial weights, step 0
    resume,        // everything
    weights,       // of a native checkpoint, step 0
    hugging_face,  // likewise, of Hugging Face's files
    complete,      // nothing is left to do: the last step was saved
  };
  Kind kind = Kind::seed;
  std::string path = {};
  bool own = false;        // of the run's own folder
  Manifest manifest = {};  // of resume and weights
  RunState state = {};     // likewise, and of complete its step
};

// Which parts of a checkpoint are loaded, by checkpoint.exclude_from_loading.
bool loads_part(const JobConfig&, const char* part);
LoadedParts loaded_parts(const JobConfig&);

// {dump_folder}/{checkpoint.folder}
std::string checkpoints_of(const JobConfig&);

// Looks at folders; one rank does. `now`: the run's facts (config, model, fingerprint,
// global_batch). Checkpoints that are incomplete or damaged are renamed, with a warning, and those
// with weights alone are named and passed over. Throws Error{kConfig}: the checkpoint is of another
// model or run, or cannot go on with the configuration; there is no such step, or nothing but
// weights.
CheckpointStart find_checkpoint_start(const JobConfig&, const RunState& now);

// On another rank than the one that found it, with its manifest. A file system of several hosts may
// show late what another one wrote: it is looked for until `limit`. Throws Error{kConfig} with this
// rank and its host when it, or one of its files, is not there then.
void check_seen(const CheckpointStart&, const JobConfig&, const World&,
                std::chrono::milliseconds limit = std::chrono::seconds(30));

// Renames a checkpoint of the run's own folder that turned out damaged, with a warning. Others'
// are left alone: Error{kIo}.
void set_damaged_aside(const std::string& path, bool own, const std::string& why);

}  // namespace nereus
