// The load of all experts of a step, and their biases, put together from the ranks that have the
// layers: each rank of a tensor-parallel or data-parallel group knows those of its stages, so that
// only pipeline ranks have something to tell each other.
#pragma once

#include <optional>
#include <vector>

#include "engine/engine.h"
#include "observe/expert_table.h"
#include "train/router_watch.h"

namespace nereus {

class ExpertWatch {
 public:
  // `tokens`: of a step, over all ranks. The engine must outlive it.
  ExpertWatch(Engine&, Stream&, int64_t tokens);

  // Before a step is enqueued: its routers are looked at too, or not.
  void watch_routers(bool);

  // A collective of all ranks, where a step is confirmed and none is enqueued after it. Null: the
  // model has no experts. Valid until the next call.
  const ExpertTable* read();

 private:
  Engine& engine_;
  Stream& stream_;
  ExpertTable table_;
  Buffer buffer_;  // of several pipeline ranks: counts and biases of all layers
  TensorView counts_, bias_, routers_;
  RouterWatch watch_;
  bool watches_ = false;
};

}  // namespace nereus
