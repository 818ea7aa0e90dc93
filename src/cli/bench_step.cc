// A training step of TorchTitan's debugmodel on the CPU, forward to AdamW, against the stated
// figure.
#include "cli/bench_step.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "base/check.h"
#include "cli/command.h"
#include "config/model_flops.h"
#include "data/row_source.h"
#include "engine/engine.h"
#include "engine/step_runner.h"

namespace nereus {

int run_bench_step(int argc, char** argv) {
  CLI::App app("Times a training step of a model on random ids: forward, backward, clip, AdamW",
               "nereus bench step");
  std::string flavor = "debugmodel", recompute = "none";
  int64_t rows = 2, sequence = 512;
  int threads = 0, steps = 10;
  app.add_option("--flavor", flavor, "model flavor")->capture_default_str();
  app.add_option("--batch", rows, "sequences")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seq_len", sequence, "tokens a sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--steps", steps, "timed steps, after 3 that are not")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--threads", threads, "compute threads; 0: as many as cores")
      ->check(CLI::Range(0, 4096));
  app.add_option("--recompute", recompute, "none, selective or full")
      ->check(CLI::IsMember({"none", "selective", "full"}))
      ->capture_default_str();
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  ModelArgs args = model_args_of_flavor(flavor);
  args.max_seq_len = sequence;
  ThreadPool pool(threads);
  Stream stream(Device::cpu(), &pool);
  const Recompute policy = recompute == "full"        ? Recompute::full()
                           : recompute == "selective" ? Recompute::selective()
                                                      : Recompute::none();
  Engine engine(args, stream,
                {.rows = rows,
                 .sequence = sequence,
                 .eos_id = 1,
                 .recompute = std::vector<Recompute>(static_cast<size_t>(args.n_layers), policy)});
  engine.store().initialize(stream, 0);
  StepRunner runner(stream, engine, {.tokens = static_cast<double>(rows * sequence)});
  const auto source =
      data::random_rows({.seq_len = sequence, .global_batch = rows}, args.vocab_size, 0);
  const auto tokens = static_cast<size_t>(rows * sequence);
  std::vector<int32_t> ids(tokens), labels(tokens);
  std::vector<double> seconds;
  constexpr int kWarmUp = 3;
  for (int step = 1; step <= kWarmUp + steps; ++step) {
    source->next(rows, ids, labels);
    const HostMicrobatch microbatch{.ids = ids, .labels = labels};
    const auto begin = std::chrono::steady_clock::now();
    runner.enqueue({.number = step, .lr = 1e-4, .microbatches = std::span(&microbatch, 1)});
    runner.confirm(step);
    if (step > kWarmUp)
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double rate = static_cast<double>(tokens) / median;
  const FlopsPerToken flops = flops_per_token(args, sequence);
  fmt::print(
      "{} {} x {}, f32, recompute {}, {} threads: median of {} steps {:.1f} ms ({:.1f} to {:.1f}), "
      "{:.0f} tokens/s, {:.1f} GFLOP/s (causal count)\n",
      flavor, rows, sequence, recompute, threads, steps, 1e3 * median, 1e3 * seconds.front(),
      1e3 * seconds.back(), rate, 1e-9 * rate * static_cast<double>(flops.causal));
  if (flavor == "debugmodel" && rows == 2 && sequence == 512 && threads == 2)
    fmt::print(
        "stated: at least 380 tokens/s on 2 threads (PyTorch with TorchTitan's modules: 190)\n");
  return 0;
}

}  // namespace nereus
