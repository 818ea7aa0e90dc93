// The weights that a run starts from, and those that it saves after its last step.
#pragma once

#include "config/job_config.h"
#include "config/model_args.h"
#include "control/world.h"
#include "engine/engine.h"
#include "parallel/rank_world.h"

namespace nereus {

class RunCheckpoint {
 public:
  // `ranks`: this rank's groups. All must outlive this.
  RunCheckpoint(const JobConfig&, const ModelArgs&, Stream&, Engine&, const RankWorld& ranks,
                World&);

  // One warning when the last save will not fit on its disk.
  void warn_of_little_space() const;
  // Replaces the initial weights by those of initial_weights(), if there are any; all ranks call
  // it. Where config.json
  // beside them has another model: Error{kConfig} with all differences for the run's own folder, a
  // warning for others' weights.
  void load();
  // After the last step, where the configuration asks for it. All ranks call it.
  void save_last(int64_t step);

 private:
  void save_weights(const std::string& folder, DType);

  const JobConfig& config_;
  const ModelArgs& args_;
  Stream& stream_;
  Engine& engine_;
  const RankWorld& ranks_;
  World& world_;
};

}  // namespace nereus
