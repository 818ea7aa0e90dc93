// The sinks of a rank, opened as the configuration and W&B's environment variables say.
//
// TensorBoard's and W&B's files are written by one rank, TorchTitan's choice: rank 0, or with
// pipeline stages the first rank of the last stage (of TorchTitan's ranks it knows the loss).
// With metrics.save_for_all_ranks every rank writes TensorBoard events, in a folder rank_N.
// metrics.jsonl and its like, and Prometheus' port, are rank 0's.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "observe/sink_group.h"
#include "observe/wandb_sink.h"
#include "parallel/mesh.h"
#include "train/run_folder.h"
#include "train/run_state.h"

namespace nereus {

// What the folders of a run are named after: all starts of it write into the first one's.
struct RunIdentity {
  int rank = 0;
  int metrics_rank = 0;
  int64_t step = 0;  // that this start goes on from
  std::string id;    // of the run's first start
  std::string time;  // of the same: 20251130-0316
};

// `schedule`: its name.
int metrics_rank(const Mesh&, const std::string& schedule);

// {dump_folder}/{save_tb_folder}/{time}
std::string tensorboard_folder(const JobConfig&, const RunIdentity&);

// Of this process.
WandbSettings wandb_environment();
// The folder that has the folders of all starts: {WANDB_DIR or dump_folder}/wandb.
std::string wandb_folder(const JobConfig&, const WandbSettings&);

// `folder`: of the rank that writes it; null elsewhere. `experts`: the model has some. Throws
// Error{kIo} naming what cannot be made.
void add_sinks(SinkGroup&, const JobConfig&, const RunIdentity&, const RunFolder* folder,
               bool experts);

// Rank 0's lines about where the figures go, and about what is missing for W&B.
void log_sinks(const JobConfig&, const RunIdentity&);

// After the run: rank 0 says the command that sends W&B's run, where wandb is installed and has a
// key; with metrics.wandb_sync the rank that wrote it runs it.
void end_wandb(const JobConfig&, const RunIdentity&);

}  // namespace nereus
