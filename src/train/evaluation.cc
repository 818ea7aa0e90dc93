#include "train/evaluation.h"

#include <chrono>
#include <cmath>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "observe/device_info.h"
#include "train/validation.h"

namespace nereus {
namespace {

using Clock = std::chrono::steady_clock;

// As the trainer's: on CPUs one rank stands for those of its process.
void check_memory(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                  Stream& stream, const Communicator& all) {
  const double host = available_host_memory();
  const int sharing = all.shares_memory() ? all.size() : 1;
  if (!stream.on_gpu() && all.rank() != 0) return;
  check_fits(config, args, layout, stream.on_gpu() ? all.rank() : 0, stream,
             stream.on_gpu() ? static_cast<double>(stream.free_at_start()) : host / sharing, host,
             EngineUse::evaluation);
}

}  // namespace

EvaluationResult evaluate_checkpoint(const JobConfig& asked, const SavedModel& model,
                                     const DataSet& set, Stream& stream, Communicator& all,
                                     World& world) {
  JobConfig config = asked;
  config.validation.enable = true;
  config.training.dataset = set.name;  // in messages
  ModelArgs args = training_model_args(config);
  const RunLayout layout = run_layout(config, args, all.size());
  const RankWorld ranks(layout.mesh, all);
  RunData data;
  const Validation rows(config, args, layout, ranks.position(MeshGroup::dp), set, &data);
  choose_end_of_document(config, data, args);
  check_memory(config, args, layout, stream, all);

  Engine engine(
      args, stream,
      engine_options(config, args, layout, ranks, stream.on_gpu(), EngineUse::evaluation));
  StepRunner runner(stream, engine, {});
  model.warn_of_difference(args);
  log::info("Loading the checkpoint from {}.", model.path());
  auto begin = Clock::now();
  model.load(engine, stream);
  all.barrier(stream);
  log::info("Finished loading the checkpoint in {:.2f} seconds.", seconds_since(begin));
  world.set_timeout(std::chrono::seconds(config.comm.train_timeout_seconds));

  begin = Clock::now();
  EvaluationResult out{.loss = 0, .tokens = rows.tokens(), .labels = rows.labels()};
  out.loss = rows.loss(0, runner);
  out.seconds = seconds_since(begin);
  NEREUS_CHECK(
      kNumeric, std::isfinite(out.loss),
      "{}: its loss is {}: the weights, or the model's arguments, are not what they should "
      "be",
      model.path(), out.loss);
  return out;
}

}  // namespace nereus
