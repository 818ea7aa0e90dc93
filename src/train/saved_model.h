// A checkpoint whose weights are used as they are, not trained on: which model it is of, and its
// weights' way into an engine. What `probe`, `generate` and `eval` begin with.
#pragma once

#include <string>
#include <vector>

#include "config/model_args.h"
#include "engine/engine.h"

namespace nereus {

class SavedModel {
 public:
  // `path`: a folder or a file of Hugging Face weights. `option` named it, for messages. Throws
  // Error{kConfig}: nothing is there.
  SavedModel(std::string path, const char* option);

  const std::string& path() const { return path_; }
  const std::string& folder() const { return folder_; }  // that the weights are in
  // config.json beside the weights, which may be missing.
  std::string config() const;

  // The model that config.json describes. Throws Error{kConfig} as model_args_from_hf_config().
  ModelArgs args() const;
  // The tokens that end a text, as config.json has them; none: it does not say.
  std::vector<int64_t> end_tokens() const;

  // One warning when config.json is of another model than `run`, with what differs. Nothing where
  // there is no such file.
  void warn_of_difference(const ModelArgs& run) const;

  // Fills the engine's weights, of which this rank may have a part. Throws Error{kConfig} when they
  // are not its model's.
  void load(Engine&, Stream&) const;

 private:
  std::string path_, folder_;
};

}  // namespace nereus
