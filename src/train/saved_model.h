// A checkpoint whose weights are used as they are, not trained on: which model it is of, and its
// weights' way into an engine. What `probe`, `generate` and `eval` begin with.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "config/load.h"
#include "config/model_args.h"
#include "engine/engine.h"
#include "train/run_state.h"

namespace nereus {

class SavedModel {
 public:
  // `path`: a folder or a file of Hugging Face weights, or a native checkpoint (step-N). `option`
  // named it, for messages. Throws Error{kConfig}: nothing is there; a native checkpoint that
  // cannot be read.
  SavedModel(std::string path, const char* option);

  const std::string& path() const { return path_; }
  const std::string& folder() const { return folder_; }  // that the weights are in
  // config.json beside the weights, which may be missing.
  std::string config() const;

  bool is_native() const { return manifest_.has_value(); }

  // The model that config.json describes, or where a native checkpoint has none its run's
  // configuration. Throws Error{kConfig} as model_args_from_hf_config().
  ModelArgs args() const;
  // Sets the keys of `loaded` that say which model it is: model, model_overrides, numerics.
  void take_model(LoadedConfig& loaded) const;
  // The tokens that end a text, as config.json has them; none: it does not say.
  std::vector<int64_t> end_tokens() const;

  // One warning when config.json is of another model than `run`, with what differs. Nothing where
  // there is no such file.
  void warn_of_difference(const ModelArgs& run) const;

  // Fills the engine's weights, of which this rank may have a part; all ranks call it. Throws
  // Error{kConfig} when they are not its model's, Error{kIo} when they are damaged.
  void load(Engine&, Stream&) const;

 private:
  void load_native(Engine&, Stream&) const;

  std::string path_, folder_;
  std::optional<Manifest> manifest_;
  RunState run_;  // of a native checkpoint
};

}  // namespace nereus
