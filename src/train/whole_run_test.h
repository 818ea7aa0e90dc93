// Whole runs in tests: a model that trains in milliseconds on random ids, on any number of ranks.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "comm/single_rank.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "test/small_models.h"
#include "test/test_tensor.h"
#include "train/trainer.h"

namespace nereus::test {

using Arguments = std::vector<std::string>;

inline Arguments operator+(Arguments a, const Arguments& more) {
  a.insert(a.end(), more.begin(), more.end());
  return a;
}

// Of a command line; what comes behind wins.
inline Arguments small_model(const std::string& folder) {
  return small_run() +
         Arguments{"--training.steps=3", "--metrics.log_freq=1", "--job.dump_folder=" + folder};
}

// As `nereus train ARGUMENTS --nproc RANKS` does on the CPU.
struct WholeRun {
  int code = -1;                // rank 0's exit code
  std::string log;              // rank 0's
  std::string data_error;       // likewise
  std::vector<double> seconds;  // of each of its steps
};
inline WholeRun train_on(int ranks, Arguments arguments) {
  if (ranks > 1) arguments.push_back("--nproc=" + std::to_string(ranks));
  TrainFlags flags;
  const LoadedConfig loaded = load_config(arguments, flags);
  ThreadPool threads(2);
  WholeRun run;
  const log::Capture capture;
  const auto rank = [&](Communicator& all, World& world) {
    if (all.size() > 1) log::set_rank(all.rank(), all.rank() == 0);
    Stream stream(Device::cpu(), &threads);
    Trainer trainer(loaded, stream, all, world);
    trainer.set_up();
    const int code = trainer.run();
    trainer.say_how_to_go_on();
    if (all.rank() != 0) return;
    run.code = code;
    run.data_error = trainer.data_error();
    run.seconds = trainer.step_seconds();
  };
  if (ranks == 1) {
    const OneRank one;
    rank(*one.all, one.world.rank(0));
  } else {
    run_thread_world(ranks, {.timeout = std::chrono::seconds(60)},
                     [&](Communicator& all, World& world) { rank(all, world); });
  }
  run.log = capture.text();
  return run;
}

}  // namespace nereus::test
