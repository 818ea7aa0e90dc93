#include "cli/bench_checkpoint.h"

#include <cstdio>

#include "base/check.h"
#include "cli/bench_checkpoint_run.h"
#include "cli/command.h"
#include "device/device.h"

namespace nereus {

int run_bench_checkpoint(int argc, char** argv) {
  BenchCheckpointRun run;
  CLI::App app("Measures checkpoints next to what the machine can do", "nereus bench checkpoint");
  app.add_option("--config", run.config, "what is trained")->capture_default_str();
  app.add_option("--folder", run.folder, "on the disk that is measured")->capture_default_str();
  app.add_option("--steps", run.steps, "before the save, after 10 that are not timed, and after it")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  app.add_flag("--small", run.small, "TorchTitan's debugmodel on the CPU in the place of --config");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  NEREUS_CHECK(kConfig, run.small || choose_device(std::nullopt).kind == Device::Kind::cuda,
               "nereus bench checkpoint needs a GPU of 80 GB and a program built for it (make "
               "PRESET=cuda) for --config={}; --small takes a small model on the CPU.",
               run.config);
  std::fputs(bench_checkpoint_run(run).c_str(), stdout);
  return 0;
}

}  // namespace nereus
