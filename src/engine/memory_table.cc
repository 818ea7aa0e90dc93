#include "engine/memory_table.h"

#include <algorithm>
#include <set>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "base/units.h"
#include "comm/nccl_memory.h"
#include "comm/nccl_ranks.h"
#include "engine/engine_options.h"
#include "pipeline/sends.h"

namespace nereus {
namespace {

// Measured on Debian 12 (docs/performance.md): code and heaps, the compute threads, and the
// reader's and tokenizer's tables.
constexpr double kProgramBytes = 14 * kMiB;
constexpr double kThreadBytes = 6 * kMiB;      // a compute thread: its tasks' scratch
constexpr double kTokenizerBytes = 22 * kMiB;  // tables, remembered pieces, text on its way
// On a GPU: kernels' code and the workspaces of libraries and of our own kernels.
constexpr double kGpuBytes = 80 * kMiB;

std::string bytes(double b) {
  return b >= kGiB ? fmt::format("{:9.2f} GiB", b / kGiB) : fmt::format("{:9.2f} MiB", b / kMiB);
}

// Changes that save memory, from the one that costs least.
struct Change {
  const char* setting;
  void (*apply)(JobConfig&);
};
void split_masters(JobConfig& c) {
  if (c.training.mixed_precision_param == DType::bf16) c.optimizer.master_dtype = MasterType::split;
}
constexpr Change kChanges[] = {
    {"--optimizer.master_dtype=split", split_masters},
    {"--activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op",
     [](JobConfig& c) {
       c.activation_checkpoint.mode = RecomputeMode::selective;
       c.activation_checkpoint.selective_ac_option = "op";
     }},
    {"--activation_checkpoint.mode=full",
     [](JobConfig& c) { c.activation_checkpoint.mode = RecomputeMode::full; }},
    {"--training.local_batch_size=1 --activation_checkpoint.mode=full",
     [](JobConfig& c) {
       c.activation_checkpoint.mode = RecomputeMode::full;
       c.training.local_batch_size = 1;
     }},
    {"--optimizer.offload=moments", [](JobConfig& c) { c.optimizer.offload = Offload::moments; }},
    {"--optimizer.offload=states", [](JobConfig& c) { c.optimizer.offload = Offload::states; }},
    {"--optimizer.offload=states --optimizer.master_dtype=split",
     [](JobConfig& c) {
       c.optimizer.offload = Offload::states;
       split_masters(c);
     }},
    {"--optimizer.offload=states --training.local_batch_size=1 --activation_checkpoint.mode=full",
     [](JobConfig& c) {
       c.optimizer.offload = Offload::states;
       c.activation_checkpoint.mode = RecomputeMode::full;
       c.training.local_batch_size = 1;
     }},
};

}  // namespace

double MemoryTable::total() const {
  double sum = 0;
  for (const Row& r : rows) sum += r.host ? 0 : r.bytes;
  return sum;
}

double MemoryTable::host_total() const {
  double sum = 0;
  for (const Row& r : rows) sum += r.host ? r.bytes : 0;
  return sum;
}

std::string MemoryTable::line() const {
  std::string out;
  for (const Row& r : rows)
    if (!r.host)
      out += fmt::format("{}{} {:.2f}", out.empty() ? "" : ", ", r.owner, r.bytes / kGiB);
  return out;
}

std::string MemoryTable::text() const {
  std::string out;
  const auto line = [&](const std::string& what, double b, const std::string& note) {
    out += fmt::format("  {:<34} {}{}{}\n", what, bytes(b), note.empty() ? "" : "  ", note);
  };
  for (const Row& r : rows)
    if (!r.host) line(r.owner, r.bytes, r.note);
  line("total", total(), "");
  if (host_total() > 0) out += "In host memory (pinned)\n";
  for (const Row& r : rows)
    if (r.host) line(r.owner, r.bytes, r.note);
  const auto names = [&](const char* title, const std::vector<Arena::Entry>& entries) {
    if (!entries.empty()) out += title;
    for (size_t i = 0; i < std::min<size_t>(8, entries.size()); ++i)
      line(entries[i].what, static_cast<double>(entries[i].bytes), "");
  };
  names("Activations of a pass when they are the most, by name\n", largest);
  names("Kept of a microbatch until its backward pass, by name, of the largest stage\n", kept);
  return out;
}

namespace {

// Of an edge's tensor, as ranks send it (Executor::Options::message_bytes).
int64_t message_bytes(const Engine::Options& o, const ModelArgs& args, const RankWorld& world) {
  const int parts = world.size(MeshGroup::tp) * world.size(MeshGroup::cp);
  return o.rows * o.sequence / parts * args.dim * size_of(o.compute);
}

// What NCCL and the copies of what is sent (comm/nccl_ranks.h) take of a GPU.
void add_communication(MemoryTable& table, const RunLayout& layout, const RankWorld& world,
                       const TokenDispatcher& dispatcher, int64_t message) {
  if (world.ranks() == 1) return;
  const auto note = [](bool network) {
    return network ? "upper bound, not measured over a network" : "measured";
  };
  const bool network = world.ranks() > kMostGpusOfAHost;
  bool pairs = false;
  double groups =
      static_cast<double>(kNcclBytes + nccl_group_bytes({.sms = most_sms(GroupUse::records),
                                                         .ranks = world.ranks(),
                                                         .network = network}));
  int count = 1;  // of all ranks
  for (const MeshGroup g : RankWorld::groups()) {
    const int size = world.size(g);
    if (size == 1) continue;
    ++count;
    const std::vector<int> ranks = world.mesh().members(g, world.rank());
    NcclGroup nccl{.sms = most_sms(RankWorld::use_of(g, ranks)),
                   .ranks = size,
                   .network = crosses_hosts(ranks)};
    if (g == MeshGroup::ep && dispatcher.exchanges_by_all_to_all()) {
      nccl.pairs = std::min(size, kMostGpusOfAHost) - 1;
      nccl.over_network = nccl.network;
      pairs = true;
    }
    groups += static_cast<double>(nccl_group_bytes(nccl));
  }
  if (pairs) groups += kNcclPairsBytes;
  table.rows.push_back({fmt::format("NCCL, {} groups (fixed)", count), groups, note(network)});

  const std::vector<int>& rank_of = layout.pipeline.schedule.rank_of_stage;
  const int me = world.position(MeshGroup::pp);
  std::set<int> to, from;
  for (size_t s = 0; s + 1 < rank_of.size(); ++s)
    for (const auto& [a, b] :
         {std::pair(rank_of[s], rank_of[s + 1]), std::pair(rank_of[s + 1], rank_of[s])}) {
      if (a == me && b != me) to.insert(b);
      if (b == me && a != me) from.insert(a);
    }
  if (to.empty() && from.empty()) return;
  const std::vector<int> ranks = world.mesh().members(MeshGroup::pp, world.rank());
  const auto of = [&](int position) { return ranks[static_cast<size_t>(position)]; };
  int64_t links = pairs ? 0 : kNcclPairsBytes;
  for (const int other : to) links += nccl_link_bytes(of(me), of(other), true);
  for (const int other : from) links += nccl_link_bytes(of(other), of(me), false);
  table.rows.push_back({fmt::format("NCCL, {} links (fixed)", to.size() + from.size()),
                        static_cast<double>(links), note(crosses_hosts(ranks))});
  table.rows.push_back(
      {"messages on their way (fixed)",
       static_cast<double>(to.size()) * messages_waiting(layout.pipeline.schedule) *
           static_cast<double>(message),
       "of a pipeline"});
}

}  // namespace

MemoryTable memory_table(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                         int rank, Stream& target, EngineUse use) {
  const bool gpu =
      target.on_gpu() || (target.on_meta() && config.device.kind == DeviceChoice::cuda);
  Stream meta = target.on_meta() && gpu && target.plans_for() == nullptr ? Stream::meta_of_gpu()
                                                                         : Stream::meta_for(target);
  const RankWorld world(layout.mesh, rank);
  Engine::Options options = engine_options(config, args, layout, world, gpu, use);
  // Our own kernels of attention are for Hopper.
  if (lower(config.device.gpu_type).find("b200") != std::string::npos)
    options.attention.cudnn = true;
  Engine engine(args, meta, options);
  const ParameterStore::Bytes state = engine.store().bytes();
  MemoryTable table;
  const auto row = [&](const char* owner, int64_t b, const char* note = "", bool host = false) {
    if (b > 0) table.rows.push_back({owner, static_cast<double>(b), note, host});
  };
  const char* const moments = options.moment_type == DType::f32 ? "optimizer (two f32 moments)"
                                                                : "optimizer (two bf16 moments)";
  row("parameters (f32 masters)", state.masters);
  row("parameters (f32 beyond bf16)", state.remainders);
  row("gradients (f32)", state.gradients);
  row(moments, state.moments);
  row("parameters (bf16)", state.copies);
  row("parameters gathered", state.gathered);
  row("states on their way to the host", state.chunks);
  row(moments, state.host_moments, "", true);
  row("parameters (f32 masters)", state.host_masters, "", true);
  row("parameters (f32 beyond bf16)", state.host_remainders, "", true);
  const Executor::Memory& executor = engine.executor().memory();
  row("activations in flight", executor.in_flight, "of all microbatches at once");
  row("activations of a pass", executor.pass, executor.in_flight > 0 ? "of one at a time" : "");
  row("edges for other ranks", executor.sent);
  row("token ids", executor.tokens);
  row("tables, expert load and bias", engine.table_bytes());
  table.largest = executor.largest;
  table.kept = executor.kept;
  if (gpu) {
    table.rows.push_back({"kernels and libraries (fixed)", kGpuBytes, "measured"});
    add_communication(table, layout, world, engine.dispatcher(),
                      message_bytes(options, args, world));
    return table;
  }
  const std::string& dataset = config.training.dataset;
  const auto threads = static_cast<double>(
      config.cpu.threads > 0 ? config.cpu.threads
                             : std::max<int64_t>(1, std::thread::hardware_concurrency()));
  row("program, threads (fixed)", static_cast<int64_t>(kProgramBytes + threads * kThreadBytes),
      "measured");
  if (dataset != "tokens" && dataset != "random")
    row("tokenizer and reader (fixed)", static_cast<int64_t>(kTokenizerBytes), "measured");
  return table;
}

std::vector<RankMemory> memory_of_pipeline(const JobConfig& config, const ModelArgs& args,
                                           const RunLayout& layout, Stream& target) {
  std::vector<RankMemory> out;
  for (int rank = 0; rank < layout.mesh.world(); ++rank) {
    const int position = layout.mesh.position(MeshGroup::pp, rank);
    if (position != static_cast<int>(out.size())) continue;
    out.push_back({rank, layout.pipeline.schedule.stages_of(position),
                   memory_table(config, args, layout, rank, target)});
  }
  return out;
}

const RankMemory& largest(const std::vector<RankMemory>& all) {
  return *std::max_element(all.begin(), all.end(), [](const RankMemory& a, const RankMemory& b) {
    return a.table.total() < b.table.total();
  });
}

MemoryTable check_fits(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                       int rank, Stream& stream, double available, double host_available,
                       EngineUse use) {
  const MemoryTable table = memory_table(config, args, layout, rank, stream, use);
  NEREUS_CHECK(kConfig, table.host_total() <= host_available,
               "optimizer.offload = \"{}\" keeps {:.2f} GiB of this rank's states in the host's "
               "memory, which has {:.2f} GiB left. More ranks (parallelism) have less each; "
               "optimizer.master_dtype = \"split\" and optimizer.moment_dtype = \"bfloat16\" make "
               "them smaller.",
               word(config.optimizer.offload), table.host_total() / kGiB, host_available / kGiB);
  if (table.total() <= available) return table;
  const std::string whose =
      stream.on_gpu() ? "the device has" : "this machine has, for each of its ranks,";
  NEREUS_CHECK(kConfig, use == EngineUse::training,
               "the evaluation needs {:.2f} GiB and {} {:.2f} GiB free:\n{}More ranks "
               "([parallelism]) have less each; a smaller training.local_batch_size has less of "
               "activations.",
               table.total() / kGiB, whose, available / kGiB, table.text());
  std::string remedies;
  bool any_fits = false;
  double last = table.total();
  for (const Change& change : kChanges) {
    JobConfig other = config;
    change.apply(other);
    double need = 0;
    try {
      const RunLayout other_layout = run_layout(other, args, layout.mesh.world());
      need = memory_table(other, args, other_layout, rank, stream).total();
    } catch (const Error& e) {
      if (e.fault() != Fault::kConfig) throw;
      continue;  // a batch that this layout cannot divide
    }
    if (need >= table.total() || need == last) continue;
    last = need;
    remedies +=
        fmt::format("\n  {} saves {:.2f} GiB and needs {:.2f}{}", change.setting,
                    (table.total() - need) / kGiB, need / kGiB, need <= available ? ": fits" : "");
    any_fits = any_fits || need <= available;
  }
  if (!any_fits)
    remedies +=
        "\n  None of these is enough: the model is too large for one device; fewer blocks or "
        "experts ([model_overrides]) make it smaller.";
  NEREUS_FAIL(kConfig, "the run needs {:.2f} GiB and {} {:.2f} GiB free:\n{}Settings that save:{}",
              table.total() / kGiB, whose, available / kGiB, table.text(), remedies);
}

}  // namespace nereus
