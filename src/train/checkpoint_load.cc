// RunCheckpoint: the way into the engine, and weights in Hugging Face's format.
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "base/units.h"
#include "checkpoint/gathered_weights.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/model_difference.h"
#include "checkpoint/state_load.h"
#include "checkpoint/verify.h"
#include "ops/elementwise.h"
#include "train/broadcast_text.h"
#include "train/checkpoint_state.h"
#include "train/run_checkpoint.h"

namespace nereus {
namespace {

using Kind = CheckpointStart::Kind;

std::vector<Parameter> tensors_of(const ModelArgs& args) {
  std::vector<Parameter> out = parameters(args);
  for (Parameter& p : expert_biases(args)) out.push_back(std::move(p));
  return out;
}

// Before weights are read: are they this model's? config.json beside them says so.
void warn_of_another_model(const std::string& path, const ModelArgs& run) {
  const std::optional<std::string> config = config_beside(path);
  if (!config) return;
  std::vector<std::string> differences;
  try {
    differences = model_differences(model_args_from_hf_config(*config), run, WeightsOf::others);
  } catch (const Error& e) {
    log::info("Whether the weights are of this model was not checked: {}", e.what());
    return;
  }
  if (differences.empty()) return;
  log::warning(
      "The weights of {} are of another model than this run's ({} there, the configuration here), "
      "and are used all the same:\n  {}\n  --model.hf_config={} takes the model's arguments from "
      "there.",
      path, *config, fmt::join(differences, "\n  "), *config);
}

void clear(const FlatState& s, Stream& stream) {
  if (s.on_host) {
    std::fill_n(s.view.data, s.view.bytes(), std::byte{});
  } else {
    ops::fill(stream, {.out = s.view, .value = 0});
  }
}

}  // namespace

void RunCheckpoint::load(Engine& engine) {
  const auto begin = Clock::now();
  const auto seed = static_cast<uint64_t>(config_.training.seed.value_or(0));
  bool said = false;
  for (;;) {
    switch (start_.kind) {
      case Kind::complete:
        return;
      case Kind::seed:
        engine.store().initialize(stream_, seed);
        return;
      case Kind::hugging_face:
        engine.store().initialize(stream_, seed);
        log::info("Loading the checkpoint from {}.", start_.path);
        load_hugging_face(engine);
        break;
      case Kind::weights:
      case Kind::resume:
        if (start_.kind == Kind::resume) log_start();
        log::info("Loading the checkpoint from {}.", start_.path);
        if (!load_native(engine)) continue;  // with the one before it
        break;
    }
    if (!said)
      log::info("Finished loading the checkpoint in {:.2f} seconds.", seconds_since(begin));
    said = true;
    return;
  }
}

// False: it was damaged, and start_ is another one. Nothing of the states is as it was.
bool RunCheckpoint::load_native(Engine& engine) {
  const bool resume = start_.kind == Kind::resume;
  const bool model = !resume || loads_part(config_, "model");
  const bool moments = resume && loads_part(config_, "optimizer");
  CheckpointState state(engine, stream_, true);
  if (!model)
    engine.store().initialize(stream_, static_cast<uint64_t>(config_.training.seed.value_or(0)));
  std::vector<FlatState> wanted;
  std::vector<SavedState> words;
  for (const FlatState& s : state.states) {
    if (s.state == SavedState::model ? model : moments) {
      wanted.push_back(s);
      words.push_back(s.state);
    } else if (s.state != SavedState::model) {
      clear(s, stream_);
    }
  }
  const Manifest& m = start_.manifest;
  const std::vector<Parameter> biases = model ? expert_biases(args_) : std::vector<Parameter>();
  check_tensors(m, start_.path, parameters(args_), expert_biases(args_), words);
  std::vector<uint64_t> sums(m.tensors.size());
  std::string mine;
  try {
    sums =
        load_states(start_.path, m,
                    {.slices = state.slices,
                     .states = wanted,
                     .extras = std::span(state.biases).subspan(0, model ? state.biases.size() : 0),
                     .counts_extras = state.writes_biases},
                    stream_);
  } catch (const Error& e) {
    if (e.fault() != Fault::kIo) throw;
    mine = e.what();
  }
  for (size_t i = 0; i < m.tensors.size(); ++i) {  // those that nobody loads
    const Manifest::Tensor& t = m.tensors[i];
    const bool loaded = t.state == SavedState::model ? model : moments;
    if (!loaded) sums[i] = rank0() ? t.checksum() : 0;
  }
  const std::string why = damage(sums, mine);
  if (why.empty()) {
    engine.store().refresh_copies(stream_);
    if (resume) begin_capacity(engine);
    return true;
  }
  NEREUS_CHECK(kIo, config_.checkpoint.load_step < 0, "{}", why);
  if (rank0()) {
    set_damaged_aside(start_.path, start_.own, why);
    start_ = find_checkpoint_start(config_, facts_);
  }
  share_start();
  if (start_.kind != Kind::resume)
    for (const FlatState& s : state.states)
      if (s.state != SavedState::model) clear(s, stream_);
  for (const NamedView& v : state.biases) ops::fill(stream_, {.out = v.view, .value = 0});
  return false;
}

// The same on all ranks: what is wrong with what was loaded, or "". `sums` of this rank, `mine`
// what it could not read.
std::string RunCheckpoint::damage(const std::vector<uint64_t>& sums,
                                  const std::string& mine) const {
  Communicator& all = ranks_.world();
  const auto n = static_cast<int64_t>(sums.size());
  // The lowest rank with an error speaks.
  int64_t speaks = mine.empty() ? 0 : all.size() - all.rank();
  std::vector<uint64_t> total(sums);
  {
    const Buffer buffer(stream_.device(), (n + 1) * size_of(DType::i64), "checksums");
    const TensorView flag(buffer.data(), DType::i64, {1});
    copy_to_device(stream_, flag, &speaks);
    all.all_reduce(stream_, flag, ReduceOp::max);
    copy_to_host(stream_, &speaks, flag);
    const TensorView view(buffer.data() + size_of(DType::i64), DType::i64, {n});
    copy_to_device(stream_, view, total.data());
    all.all_reduce(stream_, view);
    copy_to_host(stream_, total.data(), view);
    stream_.synchronize();
  }
  if (speaks > 0) return broadcast_text(mine, all.size() - static_cast<int>(speaks), all, stream_);
  const Manifest& m = start_.manifest;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Manifest::Tensor& t = m.tensors[i];
    if (total[i] == t.checksum()) continue;
    return broadcast_text(rank0() ? find_damage(start_.path, m, i) : "", 0, all, stream_);
  }
  return "";
}

// What the run's experts had grown to.
void RunCheckpoint::begin_capacity(Engine& engine) const {
  const int64_t now = engine.expert_capacity();
  if (now == 0 || start_.state.expert_capacity <= 0) return;
  const auto rows = static_cast<int64_t>(
      std::ceil(start_.state.expert_capacity * static_cast<double>(engine.expert_slots())));
  if (rows > now) engine.grow_expert_capacity(rows);
}

void RunCheckpoint::load_hugging_face(Engine& engine) {
  warn_of_another_model(start_.path, args_);
  engine.store().assemble_masters(stream_);
  load_hf_weights(start_.path, engine.weights(), stream_.on_gpu() ? &stream_ : nullptr,
                  tensors_of(args_));
  engine.store().refresh_copies(stream_);
}

void RunCheckpoint::save_hugging_face(Engine& engine, const std::string& folder) {
  const DType dtype = config_.checkpoint.export_dtype;
  const std::string model = hf_config_json(args_, dtype);
  engine.store().assemble_masters(stream_);
  if (ranks_.ranks() == 1) {
    save_hf_weights(folder, engine.weights(), model, dtype, kShardBytes,
                    stream_.on_gpu() ? &stream_ : nullptr);
    return;
  }
  std::vector<GatheredWeights::Whole> all;
  for (const Parameter& p : tensors_of(args_)) all.push_back({p.name, p.shape});
  GatheredWeights gathered(stream_, ranks_.world(), all, engine.weights());
  if (!rank0()) {
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
