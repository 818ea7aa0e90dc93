#include "cli/train.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/assets.h"
#include "base/check.h"
#include "base/log.h"
#include "cli/device_choice.h"
#include "config/command_line.h"
#include "config/load.h"
#include "launch/local_processes.h"
#include "launch/log_ranks.h"
#include "launch/session.h"
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
    "a,b or a b.\n"
    "                       docs/configuration.md has every key.\n\n"
    "  --dry-run            describe the model, its FLOPs and its memory, and stop\n"
    "  --world N            with --dry-run: for N ranks (default 1)\n"
    "  --print-config       print every key with where its value comes from, and stop\n"
    "  --config-reference   print docs/configuration.md, and stop\n"
    "  --nproc N            N ranks on this machine: processes with a GPU each, or threads that "
    "share its\n"
    "                       cores. Under mpirun, srun and torchrun each process is a rank.\n"
    "                       LOG_RANK=0,8: ranks that write the log.\n"
    "  -h, --help           this text\n\n"
    "Exit codes: 0 trained; 2 something asked for is wrong; 70-74 as docs/operations.md says; 128 "
    "+ the\n"
    "signal's number after SIGINT, SIGTERM or SIGUSR1, which let the step end.\n";

// How many ranks a launcher started; 0: none did, -1: only MPI knows.
int64_t launched_ranks(const Environment& environment) {
  const LaunchEnvironment outer = read_launch_environment(environment, {});
  if (!outer.size_known) return -1;
  return outer.launcher == Launcher::single ? 0 : outer.world_size;
}

// This process's ranks of a run.
int train(const LaunchEnvironment& launch, const LoadedConfig& loaded) {
  const JobConfig& config = loaded.config;
  const char* const log_rank = std::getenv("LOG_RANK");
  const std::set<int> speaking = log_ranks(log_rank == nullptr ? "" : log_rank);
  const int threads = config.cpu.threads > 0
                          ? static_cast<int>(config.cpu.threads)
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  ThreadPool pool(threads);
  const Device device = choose_device(config.device.kind);
  int code = 0;
  run_ranks(launch,
            {.init_timeout = std::chrono::seconds(config.comm.init_timeout_seconds),
             .version = NEREUS_VERSION,
             .configuration = config_lines(config),
             .device = device.kind},
            [&](ThisRank& me) {
              const bool several = me.ranks.size() > 1;
              check_log_ranks(speaking, me.world.size());
              if (several) log::set_rank(me.world.rank(), speaking.contains(me.world.rank()));
              for (const std::string& notice : loaded.notices) log::warning("{}", notice);
              if (config.job.print_config)
                log::info("Running with configs:\n{}", print_config(loaded));
              Stream stream(several ? me.device : device, &pool,
                            config.parallelism.expert_overlap ? Stream::Priority::high
                                                              : Stream::Priority::normal);
              std::unique_ptr<Trainer> trainer;  // outlives what me.run() tells the others
              int mine = 0;                      // the same on every rank
              me.run([&] {
                trainer = std::make_unique<Trainer>(config, stream, me.ranks, me.world);
                trainer->set_up();
                mine = trainer->run();
              });
              if (launch.launcher != Launcher::threads || me.world.rank() == 0) code = mine;
              // Here, while no process of the others has ended: a launcher may end all with it.
              if (!trainer->data_error().empty())
                std::fprintf(stderr, "error: %s\n", trainer->data_error().c_str());
            });
  return code;
}

}  // namespace

int run_train(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  TrainFlags flags = parse_command_line(arguments).flags;
  const Environment environment = launch_variables();
  // Who describes or plans needs no launcher, and may have half of one's variables from a shell.
  const bool alone = flags.help || flags.config_reference || flags.dry_run;
  const int64_t launched = alone ? 0 : launched_ranks(environment);
  const LoadedConfig loaded = load_config(arguments, flags, launched);
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
  if (flags.dry_run) {
    for (const std::string& notice : loaded.notices) log::warning("{}", notice);
    std::fputs(dry_run(loaded.config, flags.world).c_str(), stdout);
    return 0;
  }
  const LaunchEnvironment launch =
      read_launch_environment(environment, {.nproc = static_cast<int>(flags.nproc)});
  if (launch.launcher == Launcher::threads &&
      choose_device(loaded.config.device.kind).kind == Device::Kind::cuda) {
    std::vector<std::string> command = without_nproc({argv, argv + argc});
    command.insert(command.begin(), program_path());
    return run_local_processes(command, launch.world_size);
  }
  return train(launch, loaded);
}

}  // namespace nereus
