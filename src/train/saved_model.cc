#include "train/saved_model.h"

#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/model_difference.h"
#include "model/parameters.h"

namespace nereus {

namespace fs = std::filesystem;

namespace {

// What the weights of the whole model are: a rank may have a part of them.
std::vector<Parameter> model_tensors(const ModelArgs& args) {
  std::vector<Parameter> out = parameters(args);
  for (int64_t layer = 0; layer < args.n_layers; ++layer)
    if (args.is_moe_layer(layer) && has_expert_bias(args))
      out.push_back(
          {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  return out;
}

}  // namespace

SavedModel::SavedModel(std::string path, const char* option) : path_(std::move(path)) {
  NEREUS_CHECK(kConfig, is_there(path_), "{} {}: {} (nereus download fetches weights)", option,
               path_, what_is_at(path_));
  folder_ = is_folder(path_) ? path_ : fs::path(path_).parent_path().string();
}

std::string SavedModel::config() const { return (fs::path(folder_) / "config.json").string(); }

ModelArgs SavedModel::args() const { return model_args_from_hf_config(config()); }

std::vector<int64_t> SavedModel::end_tokens() const {
  return is_there(config()) ? hf_config_eos_ids(config()) : std::vector<int64_t>();
}

void SavedModel::warn_of_difference(const ModelArgs& run) const {
  if (!is_there(config())) return;
  const std::vector<std::string> differences = model_differences(args(), run, WeightsOf::others);
  if (differences.empty()) return;
  log::warning(
      "The weights of {} are of another model than the configuration's ({} there, the "
      "configuration here), and are used all the same:\n  {}",
      path_, config(), fmt::join(differences, "\n  "));
}

void SavedModel::load(Engine& engine, Stream& stream) const {
  engine.store().assemble_masters(stream);
  load_hf_weights(path_, engine.weights(), stream.on_gpu() ? &stream : nullptr,
                  model_tensors(engine.args()));
  engine.store().refresh_copies(stream);
}

}  // namespace nereus
