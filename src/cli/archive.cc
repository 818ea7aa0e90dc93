#include "cli/archive.h"

#include <cstdio>

#include "cli/command.h"
#include "cli/installation.h"
#include "recipe/archive.h"

namespace nereus {

int run_archive(int argc, char** argv) {
  CLI::App app(
      "Archive the runs of all workloads as one .tar.zst, without profiles and checkpoints",
      "nereus archive");
  std::string output;
  app.add_option("--output", output,
                 "the archive (default $LLMB_INSTALL/llmb-archive_VERSION_TIME.tar.zst)");
  if (const auto done = parse_command(app, argc, argv)) return *done;
  const recipe::ArchiveResult result = recipe::make_archive(read_installation(), output);
  std::printf("Archive created: %s\nArchived %lld run%s.\n", result.path.c_str(),
              static_cast<long long>(result.runs), result.runs == 1 ? "" : "s");
  std::fflush(stdout);
  for (const std::string& w : result.warnings) std::fprintf(stderr, "WARNING: %s\n", w.c_str());
  return 0;
}

}  // namespace nereus
