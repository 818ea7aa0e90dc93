// The folder of a run's checkpoints: step-N, each complete or to be set aside.
//
//   step-N                  complete: with manifest.json, or weights in Hugging Face's layout
//   step-N.partial          being written, or left by a run that was killed while it wrote
//   step-N.deleting         likewise while it was deleted
//   step-N.damaged          was found incomplete or damaged
//   step-N.abandoned-TIME   of steps that a run went back behind
//
// Errors: kIo; kConfig for a folder that cannot be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nereus {

struct StepFolder {
  enum class Kind : uint8_t { native, hugging_face, incomplete };
  int64_t step = 0;
  std::string path;
  Kind kind = Kind::incomplete;
};

// The folders named step-N in `folder`, the newest first. None where there is no such folder.
std::vector<StepFolder> step_folders(const std::string& folder);

std::string step_path(const std::string& folder, int64_t step);
std::string partial_path(const std::string& place);  // of a step's folder

// Renames a step's folder to {path}.{word}, or {path}.{word}-2 and so on where that is taken.
// Returns the new name.
std::string set_aside(const std::string& path, const std::string& word);

// Removes what killed runs left: step-N.partial and step-N.deleting. Nobody may be writing.
void remove_remains(const std::string& folder);

// Makes the complete step-N.partial of `place` its step-N. What was there is deleted if it is a
// checkpoint, otherwise kept under another name.
void commit_step(const std::string& place);

// Deletes complete native checkpoints but for the newest `keep`, and those whose step is a multiple
// of `every` (0: none is). Returns the steps deleted.
std::vector<int64_t> purge_steps(const std::string& folder, int64_t keep, int64_t every);

}  // namespace nereus
