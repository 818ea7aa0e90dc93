#include "cli/bench_checkpoint.h"

#include <cstdio>
#include <string>

#include "base/check.h"
#include "cli/bench_checkpoint_disk.h"
#include "cli/bench_checkpoint_run.h"
#include "cli/command.h"
#include "device/device.h"

namespace nereus {

int run_bench_checkpoint(int argc, char** argv) {
  BenchCheckpointRun run;
  BenchCheckpointDisk disk;
  std::string part = "run";
  CLI::App app("Measures checkpoints next to what the machine can do", "nereus bench checkpoint");
  app.add_option("--config", run.config, "what is trained")->capture_default_str();
  app.add_option("--folder", run.folder, "on the disk that is measured")->capture_default_str();
  app.add_option("--steps", run.steps, "before the save, after 10 that are not timed, and after it")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  app.add_flag("--small", run.small, "TorchTitan's debugmodel on the CPU in the place of --config");
  app.add_option("--part", part,
                 "run: what a save beside steps costs them; disk: files next to dd's")
      ->check(CLI::IsMember({"run", "disk"}))
      ->capture_default_str();
  app.add_option("--gib", disk.gib, "of states, for disk")
      ->check(CLI::Range(0.05, 1e6))
      ->capture_default_str();
  app.add_option("--pairs", disk.pairs, "of ours and dd, for disk")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  if (part == "disk") {
    disk.folder = run.folder;
    std::fputs(bench_checkpoint_disk(disk).c_str(), stdout);
    return 0;
  }
  NEREUS_CHECK(kConfig, run.small || choose_device(std::nullopt).kind == Device::Kind::cuda,
               "nereus bench checkpoint needs a GPU of 80 GB and a program built for it (make "
               "PRESET=cuda) for --config={}; --small takes a small model on the CPU.",
               run.config);
  std::fputs(bench_checkpoint_run(run).c_str(), stdout);
  return 0;
}

}  // namespace nereus
