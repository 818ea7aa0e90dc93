#include "cli/bench.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/suggest.h"
#include "cli/bench_checkpoint.h"
#include "cli/bench_data.h"
#include "cli/bench_gpu.h"
#include "cli/bench_ops.h"
#include "cli/bench_slice.h"
#include "cli/bench_step.h"
#include "device/cuda_runtime.h"
#include "device/device.h"

namespace nereus {
namespace {

// The GPU's where there is one, unless --cpu is given.
int run_bench_ops_here(int argc, char** argv) {
  if constexpr (kHasCuda) {
    const bool cpu =
        std::any_of(argv, argv + argc, [](const char* a) { return std::string(a) == "--cpu"; });
    if (!cpu && cuda::device_count() > 0) return run_bench_gpu(argc, argv);
  }
  return run_bench_ops(argc, argv);
}

struct Benchmark {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};

constexpr Benchmark kBenchmarks[] = {
    {"checkpoint", run_bench_checkpoint, "saving and loading states, next to what the disk can do"},
    {"data", run_bench_data, "a text data set from files to packed rows of tokens"},
    {"ops", run_bench_ops_here,
     "every op at the shapes of runs, GEMMs next to OpenBLAS's; on a GPU what `gpu` is, and with "
     "--cpu the CPU's"},
    {"gpu", run_bench_gpu,
     "the GPU's ops at the sizes of configs/slice1.toml, by share of the limit"},
    {"slice", run_bench_slice,
     "training of configs/slice1.toml on a GPU, by recompute and attention, next to TorchTitan"},
    {"step", run_bench_step, "a whole training step, by default of TorchTitan's debugmodel"},
};

}  // namespace

int run_bench(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h") {
    std::puts("Usage: nereus bench BENCHMARK [OPTIONS]\n");
    for (const Benchmark& b : kBenchmarks) std::printf("  %-10s %s\n", b.name, b.help);
    std::puts("\n`nereus tokenize bench` measures the tokenizer.");
    return 0;
  }
  std::vector<std::string> names;
  for (const Benchmark& b : kBenchmarks) {
    if (name == b.name) return b.run(argc - 1, argv + 1);
    names.emplace_back(b.name);
  }
  const std::string near = nearest(name, names);
  NEREUS_FAIL(kConfig,
              "nereus bench: there is no benchmark {}{}\n  `nereus bench --help` lists them.", name,
              near.empty() ? "" : fmt::format("; did you mean {}?", near));
}

}  // namespace nereus
