#include "cli/configured_run.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <set>
#include <thread>
#include <vector>

#include "base/assets.h"
#include "base/log.h"
#include "cli/device_choice.h"
#include "config/command_line.h"
#include "launch/local_processes.h"
#include "launch/log_ranks.h"
#include "train/mounts.h"

namespace nereus {
namespace {

// How many ranks a launcher started; 0: none did, -1: only MPI knows.
int64_t launched_ranks() {
  const LaunchEnvironment outer = read_launch_environment(launch_variables(), {});
  if (!outer.size_known) return -1;
  return outer.launcher == Launcher::single ? 0 : outer.world_size;
}

// What a rank needs before it meets the others. Their answer to an Error is that they learn of it.
template <class Work>
auto before_meeting(const LaunchEnvironment& launch, Work work) {
  try {
    return work();
  } catch (const Error& e) {
    fail_before_meeting(launch, e);
  }
}

// This process's ranks of a run.
int run_here(const LaunchEnvironment& launch, const LoadedConfig& loaded,
             const std::function<int(Stream&, ThisRank&)>& work) {
  const JobConfig& config = loaded.config;
  before_meeting(launch, [&] { check_mounts(config); });
  const char* const log_rank = std::getenv("LOG_RANK");
  const std::set<int> speaking =
      before_meeting(launch, [&] { return log_ranks(log_rank == nullptr ? "" : log_rank); });
  const int threads = config.cpu.threads > 0
                          ? static_cast<int>(config.cpu.threads)
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  ThreadPool pool(threads);
  const Device device = before_meeting(launch, [&] { return choose_device(config.device.kind); });
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
              if (me.free_memory > 0) stream.count_from(me.free_memory);
              const int mine = work(stream, me);
              if (launch.launcher != Launcher::threads || me.world.rank() == 0) code = mine;
            });
  return code;
}

}  // namespace

LoadedConfig load_run_config(std::span<const std::string> arguments, TrainFlags& flags) {
  // Who describes or plans needs no launcher, and may have half of one's variables from a shell.
  bool alone = false;
  try {
    flags = parse_command_line(arguments).flags;
    alone = flags.help || flags.config_reference || flags.dry_run;
    return load_config(arguments, flags, alone ? 0 : launched_ranks());
  } catch (const Error& e) {
    if (alone || flags.print_config) throw;
    fail_before_meeting(read_launch_environment(launch_variables(), {}), e);
  }
}

int run_configured_ranks(int argc, char** argv, const LoadedConfig& loaded, int64_t nproc,
                         const std::function<int(Stream&, ThisRank&)>& work) {
  const LaunchEnvironment launch =
      read_launch_environment(launch_variables(), {.nproc = static_cast<int>(nproc)});
  if (kHasCuda && loaded.config.device.kind != DeviceChoice::cpu)
    ask_for_gpu_queues(launch.rank <= 0);
  if (launch.launcher == Launcher::threads &&
      choose_device(loaded.config.device.kind).kind == Device::Kind::cuda) {
    std::vector<std::string> command = without_nproc({argv, argv + argc});
    command.insert(command.begin(), program_path());
    return run_local_processes(command, launch.world_size);
  }
  return run_here(launch, loaded, work);
}

}  // namespace nereus
