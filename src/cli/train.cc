#include "cli/train.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "comm/mpi_ranks.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "observe/device_info.h"
#include "train/dry_run.h"
#include "train/trainer.h"

namespace nereus {
namespace {

constexpr const char* kHelp =
    "Trains a model.\n\n"
    "Usage: nereus train [CONFIG.toml] [--section.key=value ...] [OPTIONS]\n\n"
    "  CONFIG.toml          TorchTitan's sections and keys; configs/ has examples, "
    "configs/tiny.toml the\n"
    "                       small default. Without one, all keys have their defaults.\n"
    "  --section.key=value  overrides a key: --training.steps=20, --optimizer.lr 1e-3,\n"
    "                       --validation.enable, --validation.no_enable. Lists are "
    "comma-separated.\n"
    "                       docs/configuration.md has every key.\n\n"
    "  --dry-run            describe the model, its FLOPs and its memory, and stop\n"
    "  --world N            with --dry-run: for N ranks (default 1)\n"
    "  --print-config       print every key with where its value comes from, and stop\n"
    "  --config-reference   print docs/configuration.md, and stop\n"
    "  --nproc N            N ranks, as threads of this process: CPU ranks share its cores, GPU "
    "ranks have\n"
    "                       one GPU each. Under mpirun each process is a rank.\n"
    "  -h, --help           this text\n\n"
    "Exit codes: 0 trained; 2 something asked for is wrong; 70-74 as docs/operations.md says; 128 "
    "+ the\n"
    "signal's number after SIGINT, SIGTERM or SIGUSR1, which let the step end.\n";

// One rank's run.
int train(const JobConfig& config, ThreadPool& pool, Communicator* world, int local_rank) {
  if (world != nullptr) log::set_rank(world->rank(), world->rank() == 0);
  Stream stream(choose_device(config.device.kind, local_rank), &pool);
  Trainer trainer(config, stream, world);
  return trainer.run();
}

}  // namespace

int run_train(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  TrainFlags flags;
  std::unique_ptr<MpiSession> mpi;
  std::unique_ptr<Communicator> started;  // the processes that were started together
  if (started_by_mpi()) {
    mpi = std::make_unique<MpiSession>();
    started = mpi->world(std::chrono::seconds(300));
    log::set_rank(started->rank(), started->rank() == 0);
  }
  const LoadedConfig loaded =
      load_config(arguments, flags, started == nullptr ? 0 : started->size());
  if (flags.help) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (flags.config_reference) {
    std::fputs(configuration_reference().c_str(), stdout);
    return 0;
  }
  if (flags.print_config) {
    std::fputs(print_config(loaded).c_str(), stdout);
    return 0;
  }
  for (const std::string& notice : loaded.notices) log::warning("{}", notice);
  if (flags.dry_run) {
    std::fputs(dry_run(loaded.config, flags.world).c_str(), stdout);
    return 0;
  }
  const JobConfig& config = loaded.config;
  if (config.job.print_config) log::info("Running with configs:\n{}", print_config(loaded));
  const int threads = config.cpu.threads > 0
                          ? static_cast<int>(config.cpu.threads)
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  ThreadPool pool(threads);
  const std::chrono::seconds timeout(config.comm.init_timeout_seconds);
  if (started) {
    started->set_timeout(timeout);
    return train(config, pool, started.get(), 0);
  }
  if (flags.nproc == 1) return train(config, pool, nullptr, 0);
  int code = 0;  // the same on every rank
  run_thread_ranks(static_cast<int>(flags.nproc), {.timeout = timeout}, [&](Communicator& world) {
    const int mine = train(config, pool, &world, world.rank());
    if (world.rank() == 0) code = mine;
  });
  return code;
}

}  // namespace nereus
