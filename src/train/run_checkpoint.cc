#include "train/run_checkpoint.h"

#include <chrono>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "checkpoint/gathered_weights.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/model_difference.h"
#include "config/model_flops.h"
#include "train/run_folder.h"

namespace nereus {
namespace {

// What the weights of the whole model are, in order.
std::vector<Parameter> tensors_of(const ModelArgs& args) {
  std::vector<Parameter> out = parameters(args);
  for (int64_t layer = 0; layer < args.n_layers; ++layer)
    if (args.is_moe_layer(layer) && has_expert_bias(args))
      out.push_back(
          {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  return out;
}

// Before weights are read: are they this model's? config.json beside them says so.
void check_model(const InitialWeights& weights, const ModelArgs& run) {
  const std::optional<std::string> config = config_beside(weights.path);
  if (!config) return;
  std::vector<std::string> differences;
  try {
    differences = model_differences(model_args_from_hf_config(*config), run,
                                    weights.own ? WeightsOf::this_run : WeightsOf::others);
  } catch (const Error& e) {
    log::info("Whether the weights are of this model was not checked: {}", e.what());
    return;
  }
  if (differences.empty()) return;
  const std::string lines = fmt::format("\n  {}", fmt::join(differences, "\n  "));
  NEREUS_CHECK(
      kConfig, !weights.own,
      "{} is the last save of this run's own folder, and of another model than this run's ({} "
      "there, the configuration here):{}\n  With these weights the run would compute something "
      "else than either. Set the values as they were, or give this model a folder of its own with "
      "--job.dump_folder=...; --checkpoint.initial_load_path={} there starts it from these weights "
      "all the same.",
      weights.path, *config, lines, weights.path);
  log::warning(
      "The weights of {} are of another model than this run's ({} there, the configuration here), "
      "and are used all the same:{}\n  --model.hf_config={} takes the model's arguments from "
      "there.",
      weights.path, *config, lines, *config);
}

}  // namespace

RunCheckpoint::RunCheckpoint(const JobConfig& config, const ModelArgs& args, Stream& stream,
                             Engine& engine, const RankWorld& ranks, World& world)
    : config_(config),
      args_(args),
      stream_(stream),
      engine_(engine),
      ranks_(ranks),
      world_(world) {}

void RunCheckpoint::warn_of_little_space() const {
  const auto& c = config_.checkpoint;
  if (!c.enable || c.load_only) return;
  std::error_code error;
  const auto space = std::filesystem::space(checkpoints_of(config_), error);
  const double need =
      static_cast<double>(model_size(args_).total()) * static_cast<double>(size_of(c.export_dtype));
  if (!error && static_cast<double>(space.available) < need)
    log::warning(
        "The last step's weights take {:.2f} GiB, and {} has {:.2f} GiB free: without more space "
        "they will not be saved.",
        need / kGiB, checkpoints_of(config_), static_cast<double>(space.available) / kGiB);
}

void RunCheckpoint::load() {
  const std::optional<InitialWeights> weights = initial_weights(config_, world_);
  if (!weights) return;
  check_model(*weights, args_);
  log::info("Loading the checkpoint from {}.", weights->path);
  const auto begin = std::chrono::steady_clock::now();
  load_hf_weights(weights->path, engine_.weights(), stream_.on_gpu() ? &stream_ : nullptr,
                  tensors_of(args_));
  engine_.store().refresh_copies(stream_);
  log::info("Finished loading the checkpoint in {:.2f} seconds.", seconds_since(begin));
}

void RunCheckpoint::save_last(int64_t step) {
  const auto& c = config_.checkpoint;
  if (!c.enable || c.load_only || step == 0) return;
  const std::string folder = checkpoint_folder(config_, step);
  log::info("Saving a model only checkpoint in {} at last step, step {}.", word(c.export_dtype),
            step);
  const auto begin = std::chrono::steady_clock::now();
  save_weights(folder, c.export_dtype);
  log::info("Finished saving the checkpoint in {:.2f} seconds: {}", seconds_since(begin), folder);
}

void RunCheckpoint::save_weights(const std::string& folder, DType dtype) {
  const std::string model = hf_config_json(args_, dtype);
  engine_.store().assemble_masters(stream_);
  if (ranks_.ranks() == 1) {
    save_hf_weights(folder, engine_.weights(), model, dtype, kShardBytes,
                    stream_.on_gpu() ? &stream_ : nullptr);
    return;
  }
  std::vector<GatheredWeights::Whole> all;
  for (const Parameter& p : tensors_of(args_)) all.push_back({p.name, p.shape});
  GatheredWeights gathered(stream_, ranks_.world(), all, engine_.weights());
  if (ranks_.rank() != 0) {
    for (size_t i = 0; i < all.size(); ++i) gathered.fetch(i);
  } else {
    std::vector<NamedView> views;
    for (const GatheredWeights::Whole& w : all)
      views.push_back({.name = w.name, .view = TensorView(nullptr, DType::f32, w.shape)});
    save_hf_weights(folder, views, model, dtype, kShardBytes, nullptr,
                    [&](size_t i) { return gathered.fetch(i); });
  }
  ranks_.world().barrier(stream_);  // saved, or the writer's error
}

}  // namespace nereus
