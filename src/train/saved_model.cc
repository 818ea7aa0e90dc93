#include "train/saved_model.h"

#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/convert.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/model_difference.h"
#include "checkpoint/state_load.h"
#include "checkpoint/verify.h"
#include "config/keys.h"
#include "model/parameters.h"
#include "train/checkpoint_state.h"

namespace nereus {

namespace fs = std::filesystem;

namespace {

// What the weights of the whole model are: a rank may have a part of them.
std::vector<Parameter> model_tensors(const ModelArgs& args) {
  std::vector<Parameter> out = parameters(args);
  for (Parameter& p : expert_biases(args)) out.push_back(std::move(p));
  return out;
}

// Does a key say which model it is?
bool is_of_model(const std::string& key) {
  return key == "model.name" || key == "model.flavor" || key == "model.hf_config" ||
         key == "model.torchtitan_args" || key.starts_with("model_overrides.") ||
         key.starts_with("numerics.");
}

}  // namespace

SavedModel::SavedModel(std::string path, const char* option) : path_(std::move(path)) {
  NEREUS_CHECK(kConfig, is_there(path_), "{} {}: {} (nereus download fetches weights)", option,
               path_, what_is_at(path_));
  folder_ = is_folder(path_) ? path_ : fs::path(path_).parent_path().string();
  if (!is_native_checkpoint(path_)) return;
  try {
    manifest_ = read_manifest(path_);
    run_ = parse_run_state(manifest_->run, path_ + "/" + kManifestFile);
  } catch (const Error& e) {
    NEREUS_FAIL(kConfig, "{} {}: it is damaged, or of another program: {}", option, path_,
                e.what());
  }
}

std::string SavedModel::config() const { return (fs::path(folder_) / "config.json").string(); }

ModelArgs SavedModel::args() const {
  if (!is_native() || is_there(config())) return model_args_from_hf_config(config());
  LoadedConfig loaded;
  take_model(loaded);
  if (const auto it = run_.config.find("training.seq_len"); it != run_.config.end())
    loaded.config.training.seq_len = std::stoll(it->second);
  return resolve_model_args(loaded.config);
}

void SavedModel::take_model(LoadedConfig& loaded) const {
  if (!is_native() || is_there(config())) {
    loaded.config.model.hf_config = config();
    loaded.origin["model.hf_config"] = path_;
    return;
  }
  JobConfig defaults;
  const std::vector<Key> usual = keys(defaults), mine = keys(loaded.config);
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto it = run_.config.find(mine[i].name);
    if (!is_of_model(mine[i].name) || it == run_.config.end() || it->second == value_text(usual[i]))
      continue;
    read_toml(fmt::format("{} = {}\n", mine[i].name, it->second), path_ + "/" + kManifestFile,
              loaded);
  }
}

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
  if (is_native()) return load_native(engine, stream);
  engine.store().assemble_masters(stream);
  load_hf_weights(path_, engine.weights(), stream.on_gpu() ? &stream : nullptr,
                  model_tensors(engine.args()));
  engine.store().refresh_copies(stream);
}

void SavedModel::load_native(Engine& engine, Stream& stream) const {
  CheckpointState state(engine, stream, true);
  const SavedState weights[] = {SavedState::model};
  check_tensors(*manifest_, path_, parameters(engine.args()), expert_biases(engine.args()),
                weights);
  std::vector<FlatState> masters;
  for (const FlatState& s : state.states)
    if (s.state == SavedState::model) masters.push_back(s);
  std::vector<uint64_t> sums = load_states(path_, *manifest_,
                                           {.slices = state.slices,
                                            .states = masters,
                                            .extras = state.biases,
                                            .counts_extras = state.writes_biases},
                                           stream);
  engine.store().refresh_copies(stream);
  // What all ranks read together is what was written.
  const auto n = static_cast<int64_t>(sums.size());
  const Buffer buffer(stream.device(), n * size_of(DType::i64), "checksums");
  const TensorView view(buffer.data(), DType::i64, {n});
  copy_to_device(stream, view, sums.data());
  engine.world().world().all_reduce(stream, view);
  copy_to_host(stream, sums.data(), view);
  stream.synchronize();
  for (size_t i = 0; i < sums.size(); ++i) {
    const Manifest::Tensor& t = manifest_->tensors[i];
    NEREUS_CHECK(kIo, t.state != SavedState::model || sums[i] == t.checksum(), "{}",
                 find_damage(path_, *manifest_, i));
  }
}

}  // namespace nereus
