#include "train/dry_run.h"

#include <algorithm>
#include <thread>

#include "base/check.h"
#include "config/model_flops.h"
#include "observe/metrics.h"
#include "train/engine.h"
#include "train/trainer.h"

namespace nereus {
namespace {

constexpr double kMiB = 1 << 20, kGiB = 1 << 30;

// Measured on Debian 12 (docs/performance.md): code and heaps, the compute threads, and the
// reader's and tokenizer's tables.
constexpr double kProgramBytes = 14 * kMiB;
constexpr double kThreadBytes = 6 * kMiB;      // a compute thread: its tasks' scratch
constexpr double kTokenizerBytes = 22 * kMiB;  // tables, remembered pieces, text on its way

std::string bytes(double b) {
  return b >= kGiB ? fmt::format("{:9.2f} GiB", b / kGiB) : fmt::format("{:9.2f} MiB", b / kMiB);
}

std::string thousands(int64_t n) { return with_thousands(static_cast<double>(n), 0); }

void describe_model(std::string& out, const JobConfig& config, const ModelArgs& args) {
  const ModelSize s = model_size(args);
  const auto row = [&](const char* name, int64_t n) {
    out += fmt::format("  {:<18} {:>20}\n", name, thousands(n));
  };
  out += fmt::format("Model {} {}: {} total parameters\n", config.model.name, args.flavor,
                     thousands(s.total()));
  row("embedding", s.embedding);
  row("dense", s.dense);
  row("router", s.router);
  row("shared experts", s.shared_experts);
  row("routed experts", s.routed_experts);
  row("active a token", s.active);
  const FlopsPerToken f = flops_per_token(args, config.training.seq_len);
  out +=
      fmt::format("FLOPs a token at sequence {} (forward and backward)\n", config.training.seq_len);
  row("TorchTitan", f.torchtitan);
  row("non-causal", f.non_causal);
  row("causal", f.causal);
}

}  // namespace

std::string dry_run(const JobConfig& config, int64_t world) {
  const ModelArgs args = training_model_args(config);
  Stream meta(Device::meta());
  const bool bf16 = config.training.mixed_precision_param == "bfloat16";
  Engine engine(args, meta,
                {.compute = bf16 ? DType::bf16 : DType::f32,
                 .rows = config.training.local_batch_size,
                 .sequence = config.training.seq_len,
                 .eos_id = 0,
                 .recompute = recompute_by_block(config, args.n_layers)});
  std::string out;
  describe_model(out, config, args);

  const auto ranks = static_cast<double>(world);
  const ParameterStore::Bytes state = engine.store().bytes();
  const Executor::Memory& a = engine.executor().memory();
  double total = 0;
  const auto row = [&](const char* owner, double b, const char* note = "") {
    total += b;
    out += fmt::format("  {:<34} {}{}{}\n", owner, bytes(b), *note == '\0' ? "" : "  ", note);
  };
  out += fmt::format("Memory of {} rank{} of {}, parameters sharded over all of them\n",
                     world == 1 ? "the one" : "a", "", world);
  row("parameters (f32 masters)", static_cast<double>(state.masters) / ranks);
  row("gradients (f32)", static_cast<double>(state.gradients) / ranks);
  row("optimizer (two f32 moments)", static_cast<double>(state.moments) / ranks);
  if (bf16 && world == 1) row("parameters (bf16)", static_cast<double>(state.copies));
  if (world > 1) {
    // Two blocks are whole at once: the one in use and the one being gathered.
    std::vector<double> buckets;
    for (const StoredTensor& t : engine.store().tensors()) {
      buckets.resize(std::max(buckets.size(), static_cast<size_t>(t.bucket) + 1));
      buckets[static_cast<size_t>(t.bucket)] +=
          static_cast<double>(t.shape.count()) * (bf16 ? 2 : 4);
    }
    row("parameters gathered", 2 * *std::max_element(buckets.begin(), buckets.end()),
        "two of the largest block");
  }
  row("activations", static_cast<double>(a.total));
  row("tables, expert load and bias", static_cast<double>(engine.table_bytes()));
  const std::string& dataset = config.training.dataset;
  const bool text = dataset != "tokens" && dataset != "random";
  const auto threads = static_cast<double>(
      config.cpu.threads > 0 ? config.cpu.threads
                             : std::max<int64_t>(1, std::thread::hardware_concurrency()));
  row("program, threads (fixed)", kProgramBytes + threads * kThreadBytes, "measured");
  if (text) row("tokenizer and reader (fixed)", kTokenizerBytes, "measured");
  out += fmt::format("  {:<34} {}\n", "total", bytes(total));
  out += "Activations when they are the most, by name\n";
  for (size_t i = 0; i < std::min<size_t>(8, a.largest.size()); ++i)
    out += fmt::format("  {:<34} {}\n", a.largest[i].what,
                       bytes(static_cast<double>(a.largest[i].bytes)));
  return out;
}

}  // namespace nereus
