#include "cli/train.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "cli/configured_run.h"
#include "cli/report.h"
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
    "Exit codes: 0 trained; 2 something asked for is wrong; 70-75 as docs/operations.md says; 128 "
    "+ the\n"
    "signal's number after SIGINT, SIGTERM or SIGUSR1, which let the step end. In the run's "
    "folder,\n"
    "`touch save` saves after the step, `touch save-and-stop` saves and ends the run (75).\n";

}  // namespace

int run_train(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  TrainFlags flags;
  const LoadedConfig loaded = load_run_config(arguments, flags);
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
    const DryRun run = dry_run(loaded.config, flags.world);
    std::fputs(run.text.c_str(), stdout);
    return run.fits ? 0 : 2;
  }
  return run_configured_ranks(argc, argv, loaded, flags.nproc, [&](Stream& stream, ThisRank& me) {
    std::unique_ptr<Trainer> trainer;  // outlives what me.run() tells the others
    int code = 0;
    bool began = false;
    const auto report = [&] {
      if (began && me.world.rank() == 0) report_end_of_run(loaded.config.job.dump_folder);
    };
    try {
      me.run([&] {
        trainer = std::make_unique<Trainer>(loaded, stream, me.ranks, me.world);
        trainer->set_up();
        began = true;
        code = trainer->run();
      });
    } catch (...) {
      report();  // of a run that failed too
      throw;
    }
    report();
    trainer->say_how_to_go_on();
    // Here, while no process of the others has ended: a launcher may end all with it.
    if (!trainer->data_error().empty())
      std::fprintf(stderr, "error: %s\n", trainer->data_error().c_str());
    return code;
  });
}

}  // namespace nereus
