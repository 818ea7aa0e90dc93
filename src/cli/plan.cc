#include "cli/plan.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/atomic_file.h"
#include "base/check.h"
#include "cli/command.h"
#include "plan/pipeline_plan.h"

namespace nereus {
namespace {

void write_svg(const std::string& path, const std::string& contents) {
  const std::error_code error = replace_file(path, contents);
  NEREUS_CHECK(kConfig, !error,
               "--svg {}: cannot be written ({}); name a file in a folder that exists.", path,
               error.message());
}

}  // namespace

int run_plan(int argc, char** argv) {
  CLI::App app(
      "Draws a pipeline's schedule with its idle time and the activations it holds.\n"
      "Schedules: GPipe, 1F1B (one stage a rank), Interleaved1F1B, LoopedBFS,\n"
      "InterleavedZeroBubble (two or more), ZBVZeroBubble, DualPipeV (two)",
      "nereus plan");
  PipelinePlanOptions o;
  std::string svg;
  int stages_per_rank = 0, width = 160;
  const CLI::Range times(0.0, 1e9);
  CLI::Option* schedule = app.add_option("--schedule", o.schedule, "its name");
  app.add_option("--csv", o.csv, "a table of actions, one line a rank, instead of a name")
      ->excludes(schedule);
  app.add_option("--pp", o.ranks, "ranks of the pipeline")
      ->required()
      ->check(CLI::Range(1, 1 << 14));
  CLI::Option* microbatches =
      app.add_option("--microbatches", o.microbatches, "microbatches a step")
          ->check(CLI::Range(1, 1 << 20));
  app.add_option("--stages-per-rank", stages_per_rank,
                 "stages on each rank; as few as the schedule can have without it")
      ->check(CLI::Range(1, 1 << 10));
  app.add_option("--forward", o.costs.forward,
                 "time of one microbatch forward through a rank's blocks")
      ->check(times)
      ->capture_default_str();
  app.add_option("--dgrad", o.costs.dgrad, "of its input gradients")
      ->check(times)
      ->capture_default_str();
  app.add_option("--wgrad", o.costs.wgrad, "of its weight gradients")
      ->check(times)
      ->capture_default_str();
  app.add_option("--head", o.costs.head, "more forward on the last stage")
      ->check(times)
      ->capture_default_str();
  app.add_option("--transfer", o.costs.transfer, "from one rank to the next")
      ->check(times)
      ->capture_default_str();
  app.add_option("--blocks", o.blocks, "blocks of the model, to show which stage has which")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--first-less", o.first_less, "blocks that the embedding counts as")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--last-less", o.last_less, "blocks that the head counts as")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--svg", svg, "write the drawing to this file");
  app.add_option("--width", width, "columns of the drawing, at most")
      ->check(CLI::Range(20, 100000))
      ->capture_default_str();
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  NEREUS_CHECK(
      kConfig, schedule->count() > 0 || !o.csv.empty(),
      "nereus plan: --schedule NAME or --csv FILE is needed.\n  `nereus plan --help` shows "
      "the usage.");
  NEREUS_CHECK(kConfig, microbatches->count() > 0 || !o.csv.empty(),
               "nereus plan: --microbatches M is needed: how many a step has.");
  if (stages_per_rank > 0) o.stages_per_rank = stages_per_rank;

  const PipelinePlan plan = plan_pipeline(o);
  std::fputs(text_of(plan, o, width).c_str(), stdout);
  if (!svg.empty()) write_svg(svg, svg_of(plan, o));
  if (!plan.warning.empty()) {
    std::fflush(stdout);
    std::fprintf(stderr, "warning: %s\n", plan.warning.c_str());
  }
  return 0;
}

}  // namespace nereus
