#include "train/memory_table.h"

#include <algorithm>
#include <thread>

#include "base/check.h"
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
// On a GPU: kernels' code and the workspaces of libraries and of our own kernels.
constexpr double kGpuBytes = 400 * kMiB;

std::string bytes(double b) {
  return b >= kGiB ? fmt::format("{:9.2f} GiB", b / kGiB) : fmt::format("{:9.2f} MiB", b / kMiB);
}

// Two blocks are whole at once: the one in use and the one being gathered.
double gathered_bytes(const std::vector<StoredTensor>& tensors, double element) {
  std::vector<double> buckets;
  for (const StoredTensor& t : tensors) {
    buckets.resize(std::max(buckets.size(), static_cast<size_t>(t.bucket) + 1));
    buckets[static_cast<size_t>(t.bucket)] += static_cast<double>(t.shape.count()) * element;
  }
  return 2 * *std::max_element(buckets.begin(), buckets.end());
}

// Changes that save memory, from the one that costs least.
struct Change {
  const char* setting;
  void (*apply)(JobConfig&);
};
constexpr Change kChanges[] = {
    {"--activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op",
     [](JobConfig& c) {
       c.activation_checkpoint.mode = "selective";
       c.activation_checkpoint.selective_ac_option = "op";
     }},
    {"--activation_checkpoint.mode=full",
     [](JobConfig& c) { c.activation_checkpoint.mode = "full"; }},
    {"--training.local_batch_size=1 --activation_checkpoint.mode=full",
     [](JobConfig& c) {
       c.activation_checkpoint.mode = "full";
       c.training.local_batch_size = 1;
     }},
};

}  // namespace

double MemoryTable::total() const {
  double sum = 0;
  for (const Row& r : rows) sum += r.bytes;
  return sum;
}

std::string MemoryTable::text() const {
  std::string out;
  const auto line = [&](const std::string& what, double b, const std::string& note) {
    out += fmt::format("  {:<34} {}{}{}\n", what, bytes(b), note.empty() ? "" : "  ", note);
  };
  for (const Row& r : rows) line(r.owner, r.bytes, r.note);
  line("total", total(), "");
  out += "Activations when they are the most, by name\n";
  for (size_t i = 0; i < std::min<size_t>(8, largest.size()); ++i)
    line(largest[i].what, static_cast<double>(largest[i].bytes), "");
  return out;
}

MemoryTable memory_table(const JobConfig& config, int64_t world, Stream& target) {
  const ModelArgs args = training_model_args(config);
  Stream meta = Stream::meta_for(target);
  const bool bf16 = config.training.mixed_precision_param == "bfloat16";
  Engine engine(args, meta,
                {.compute = bf16 ? DType::bf16 : DType::f32,
                 .rows = config.training.local_batch_size,
                 .sequence = config.training.seq_len,
                 .eos_id = 0,
                 .recompute = recompute_by_block(config, args.n_layers),
                 .unordered_attention = config.device.unordered_attention});
  const auto ranks = static_cast<double>(world);
  const ParameterStore::Bytes state = engine.store().bytes();
  MemoryTable table;
  const auto row = [&](const char* owner, double b, const char* note = "") {
    table.rows.push_back({owner, b, note});
  };
  row("parameters (f32 masters)", static_cast<double>(state.masters) / ranks);
  row("gradients (f32)", static_cast<double>(state.gradients) / ranks);
  row("optimizer (two f32 moments)", static_cast<double>(state.moments) / ranks);
  if (bf16 && world == 1) row("parameters (bf16)", static_cast<double>(state.copies));
  if (world > 1)
    row("parameters gathered", gathered_bytes(engine.store().tensors(), bf16 ? 2 : 4),
        "two of the largest block");
  row("activations", static_cast<double>(engine.executor().memory().total));
  row("tables, expert load and bias", static_cast<double>(engine.table_bytes()));
  table.largest = engine.executor().memory().largest;
  if (target.on_gpu()) {
    row("kernels and libraries (fixed)", kGpuBytes, "measured");
    return table;
  }
  const std::string& dataset = config.training.dataset;
  const auto threads = static_cast<double>(
      config.cpu.threads > 0 ? config.cpu.threads
                             : std::max<int64_t>(1, std::thread::hardware_concurrency()));
  row("program, threads (fixed)", kProgramBytes + threads * kThreadBytes, "measured");
  if (dataset != "tokens" && dataset != "random")
    row("tokenizer and reader (fixed)", kTokenizerBytes, "measured");
  return table;
}

void check_fits(const JobConfig& config, Stream& stream, double available) {
  const MemoryTable table = memory_table(config, 1, stream);
  if (table.total() <= available) return;
  std::string remedies;
  for (const Change& change : kChanges) {
    JobConfig other = config;
    change.apply(other);
    const double need = memory_table(other, 1, stream).total();
    if (need <= available)
      remedies += fmt::format("\n  {} needs {:.2f} GiB", change.setting, need / kGiB);
  }
  if (remedies.empty())
    remedies =
        "\n  None of these does: the model is too large for one device; fewer blocks or "
        "experts ([model_overrides]) make it smaller.";
  NEREUS_FAIL(
      kConfig,
      "the run needs {:.2f} GiB and the device has {:.2f} GiB free:\n{}Settings that fit:{}",
      table.total() / kGiB, available / kGiB, table.text(), remedies);
}

}  // namespace nereus
