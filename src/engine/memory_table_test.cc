#include "engine/memory_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/units.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "engine/engine_options.h"
#include "engine/step_runner.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// The memory that Buffers of the CPU have, as the system sees it: each is a mapping of its own, and
// this program's mmap() and munmap() are those below.
class Mappings {
 public:
  static Mappings& all() {
    static Mappings& instance = *new Mappings;  // the last munmap() comes after all destructors
    return instance;
  }
  void add(void* at, size_t bytes) {
    const std::lock_guard lock(mutex_);
    sizes_[static_cast<std::byte*>(at)] = bytes;
    total_ += static_cast<int64_t>(bytes);
    peak_ = std::max(peak_, total_);
  }
  void remove(void* at) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(static_cast<std::byte*>(at));
    if (found == sizes_.end()) return;
    total_ -= static_cast<int64_t>(found->second);
    sizes_.erase(found);
  }
  int64_t total() {
    const std::lock_guard lock(mutex_);
    return total_;
  }
  // The most since the last call, which begins anew.
  int64_t take_peak() {
    const std::lock_guard lock(mutex_);
    return std::exchange(peak_, total_);
  }

 private:
  std::mutex mutex_;
  std::map<std::byte*, size_t> sizes_;
  int64_t total_ = 0, peak_ = 0;
};

}  // namespace
}  // namespace nereus

extern "C" {
__attribute__((visibility("hidden"))) void* mmap(void* at, size_t bytes, int protection, int flags,
                                                 int file, off_t offset) noexcept {
  // NOLINTNEXTLINE: the system's answer is an address
  void* const memory =
      reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
  if (memory != MAP_FAILED && (flags & MAP_NORESERVE) != 0)
    nereus::Mappings::all().add(memory, bytes);
  return memory;
}
__attribute__((visibility("hidden"))) int munmap(void* at, size_t bytes) noexcept {
  nereus::Mappings::all().remove(at);
  return static_cast<int>(syscall(SYS_munmap, at, bytes));
}
}

namespace nereus {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;
using Arguments = std::vector<std::string>;

constexpr int64_t kSequence = 16;

// Two of the three layers of experts.
LoadedConfig load(const Arguments& more = {}) {
  Arguments arguments = test::small_run();
  arguments.insert(arguments.end(), {"--model_overrides.n_layers=3", "--cpu.threads=2"});
  arguments.insert(arguments.end(), more.begin(), more.end());
  TrainFlags flags;
  return load_config(arguments, flags);
}

RunLayout layout_of(const JobConfig& config, int64_t ranks = 1) {
  return run_layout(config, training_model_args(config), ranks);
}

MemoryTable memory_table(const JobConfig& config, const RunLayout& layout, int rank,
                         Stream& stream) {
  return nereus::memory_table(config, training_model_args(config), layout, rank, stream);
}

void check_fits(const JobConfig& config, const RunLayout& layout, int rank, Stream& stream,
                double available, double host) {
  nereus::check_fits(config, training_model_args(config), layout, rank, stream, available, host);
}

MemoryTable table_of(const JobConfig& config) {
  Stream meta(Device::meta());
  return memory_table(config, layout_of(config), 0, meta);
}

double bytes_of(const MemoryTable& t, const std::string& owner, bool host = false) {
  double sum = 0;
  for (const MemoryTable::Row& r : t.rows) sum += r.owner == owner && r.host == host ? r.bytes : 0;
  return sum;
}

// What is measured or counted, and not a constant of this program.
double counted(const MemoryTable& t) {
  double sum = 0;
  for (const MemoryTable::Row& r : t.rows)
    if (r.owner.find("(fixed)") == std::string::npos) sum += r.bytes;
  return sum;
}

std::vector<std::string> owners(const MemoryTable& t) {
  std::vector<std::string> out;
  for (const MemoryTable::Row& r : t.rows) out.push_back(r.owner + (r.host ? ", host" : ""));
  return out;
}

TEST(MemoryTable, AddsTheDevicesRowsAndTheHostsAndPrintsThemApart) {
  MemoryTable t;
  t.rows = {{"masters", 3 << 20, "", false},
            {"moments", 2.5 * kGiB, "two", true},
            {"activations", 1.5 * kGiB, "most", false}};
  t.largest = {{"q", 1 << 20}, {"k", 1 << 19}};
  EXPECT_EQ(t.total(), 3 * (1 << 20) + 1.5 * kGiB);
  EXPECT_EQ(t.host_total(), 2.5 * kGiB);
  EXPECT_EQ(t.text(),
            "  masters                                 3.00 MiB\n"
            "  activations                             1.50 GiB  most\n"
            "  total                                   1.50 GiB\n"
            "In host memory (pinned)\n"
            "  moments                                 2.50 GiB  two\n"
            "Activations of a pass when they are the most, by name\n"
            "  q                                       1.00 MiB\n"
            "  k                                       0.50 MiB\n");
  t.rows.erase(t.rows.begin() + 1);
  EXPECT_THAT(t.text(), Not(HasSubstr("host")));
}

// Each stored tensor begins at a multiple of 128 elements.
double elements(const ModelArgs& args) {
  int64_t n = 0;
  for (const StoredTensor& t : model_layout(args).tensors) n += (t.shape.count() + 127) / 128 * 128;
  return static_cast<double>(n);
}

TEST(MemoryTable, HasARowForEachStateWithItsBytes) {
  const JobConfig f32 = load().config;
  const MemoryTable t = table_of(f32);
  EXPECT_THAT(owners(t),
              ElementsAre("parameters (f32 masters)", "gradients (f32)",
                          "optimizer (two f32 moments)", "activations of a pass", "token ids",
                          "tables, expert load and bias", "program, threads (fixed)"));
  const double n = elements(training_model_args(f32));
  EXPECT_EQ(bytes_of(t, "parameters (f32 masters)"), 4 * n);
  EXPECT_EQ(bytes_of(t, "gradients (f32)"), 4 * n);
  EXPECT_EQ(bytes_of(t, "optimizer (two f32 moments)"), 8 * n);
  // cos and sin of 4 pairs by position; load and bias of 4 experts in 2 layers
  EXPECT_EQ(bytes_of(t, "tables, expert load and bias"), 2 * 4 * kSequence * 4 + 2 * 4 * (8 + 4));
  EXPECT_EQ(bytes_of(t, "program, threads (fixed)"), (14 + 2 * 6) * (1 << 20));

  const MemoryTable bf16 =
      table_of(load({"--training.mixed_precision_param=bfloat16",
                     "--optimizer.moment_dtype=bfloat16", "--training.dataset=c4_test"})
                   .config);
  EXPECT_THAT(owners(bf16),
              ElementsAre("parameters (f32 masters)", "gradients (f32)",
                          "optimizer (two bf16 moments)", "parameters (bf16)",
                          "activations of a pass", "token ids", "tables, expert load and bias",
                          "program, threads (fixed)", "tokenizer and reader (fixed)"));
  EXPECT_EQ(bytes_of(bf16, "parameters (bf16)"), 2 * n);
  EXPECT_EQ(bytes_of(bf16, "optimizer (two bf16 moments)"), 4 * n);
}

// A rank of a run, made as the trainer makes it.
class Rank {
 public:
  Rank(const JobConfig& config, const RunLayout& layout, const RankWorld& world)
      : stream_(Device::cpu(), &test::pool()),
        layout_(layout),
        args_(training_model_args(config)),
        engine_(args_, stream_, engine_options(config, args_, layout_, world, false)) {}

  Engine& engine() { return engine_; }
  Stream& stream() { return stream_; }

  // Makes the optimizer, then trains; returns the bytes that the steps have allocated.
  int64_t run(int64_t steps) {
    engine_.store().initialize(stream_, 1);
    engine_.store().refresh_copies(stream_);
    const auto tokens = static_cast<size_t>(layout_.microbatch_rows * kSequence);
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<int32_t>(philox(1, i).v[0] % 64));
    const std::vector<HostMicrobatch> batch(static_cast<size_t>(layout_.microbatches),
                                            {.ids = ids, .labels = ids});
    StepRunner runner(stream_, engine_,
                      {.tokens = static_cast<double>(layout_.global_batch * kSequence)});
    Mappings& mappings = Mappings::all();
    mappings.take_peak();
    const int64_t before = mappings.total();
    for (int64_t step = 1; step <= steps; ++step) {
      runner.enqueue({.number = step, .lr = 1e-3, .microbatches = batch});
      EXPECT_TRUE(std::isfinite(runner.confirm(step).loss));
    }
    return mappings.take_peak() - before;
  }

 private:
  Stream stream_;
  RunLayout layout_;
  ModelArgs args_;
  Engine engine_;
};

// The few words of a step's result are not in the table.
TEST(MemoryTable, IsWhatARunAllocatesAndUsesToTheByte) {
  for (const Arguments& more :
       {Arguments{}, Arguments{"--training.mixed_precision_param=bfloat16"},
        Arguments{"--training.mixed_precision_param=bfloat16", "--optimizer.master_dtype=split",
                  "--activation_checkpoint.mode=full"},
        Arguments{"--training.global_batch_size=6", "--activation_checkpoint.mode=selective",
                  "--activation_checkpoint.selective_ac_option=op"}}) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(more, " ")));
    const JobConfig config = load(more).config;
    const RunLayout layout = layout_of(config);
    const MemoryTable table = table_of(config);
    Mappings& mappings = Mappings::all();
    const int64_t before = mappings.total();
    const RankWorld alone;
    Rank rank(config, layout, alone);
    EXPECT_EQ(static_cast<double>(mappings.total() - before), counted(table));

    EXPECT_EQ(rank.run(2), 0) << "a step allocated";
    EXPECT_EQ(static_cast<double>(rank.engine().executor().peak_bytes()),
              bytes_of(table, "activations of a pass"));
    EXPECT_EQ(bytes_of(table, "activations in flight"), 0);
    EXPECT_EQ(bytes_of(table, "token ids"), 4 * 4 * layout.microbatch_rows * kSequence);
  }
}

// What the ranks of a layout allocate together, and how much of it a step uses.
void expect_allocated(const Arguments& arguments) {
  SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
  const JobConfig config = load(arguments).config;
  const RunLayout layout = layout_of(config, 2);
  Stream meta(Device::meta());
  double tables = 0;
  for (const int rank : {0, 1}) tables += counted(memory_table(config, layout, rank, meta));
  Mappings& mappings = Mappings::all();
  const int64_t before = mappings.total();
  int64_t together = 0;
  run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& world) {
    const RankWorld mine(layout.mesh, world);
    Rank rank(config, layout, mine);
    world.barrier(rank.stream());
    if (world.rank() == 0) together = mappings.total() - before;
    world.barrier(rank.stream());
    rank.run(1);
    const Executor& executor = rank.engine().executor();
    EXPECT_EQ(executor.peak_bytes(), executor.memory().in_flight + executor.memory().pass);
  });
  EXPECT_EQ(static_cast<double>(together), tables);
}

TEST(MemoryTable, IsWhatRanksAllocateTogether) {
  expect_allocated({"--nproc=2", "--parallelism.data_parallel_shard_degree=2"});
  expect_allocated({"--nproc=2", "--parallelism.data_parallel_shard_degree=2",
                    "--parallelism.fsdp_reshard_after_forward=always"});
  expect_allocated({"--nproc=2", "--parallelism.data_parallel_shard_degree=2",
                    "--parallelism.expert_parallel_degree=2",
                    "--training.mixed_precision_param=bfloat16"});
  expect_allocated({"--nproc=2", "--parallelism.tensor_parallel_degree=2"});
}

// Routing that is forced even needs no room for more: the rows of a rank's experts are its slots.
TEST(MemoryTable, RowsOfForcedRoutingAreExact) {
  const Arguments experts = {"--nproc=2", "--parallelism.data_parallel_shard_degree=2",
                             "--parallelism.expert_parallel_degree=2"};
  Arguments forced = experts;
  forced.emplace_back("--training.debug_moe_force_load_balance");
  const auto capacity = [](const Arguments& arguments) {
    const JobConfig config = load(arguments).config;
    const ModelArgs args = training_model_args(config);
    const RunLayout layout = layout_of(config, 2);
    const RankWorld world(layout.mesh, 1);
    Stream meta(Device::meta());
    const Engine engine(args, meta, engine_options(config, args, layout, world, false));
    return std::pair(engine.expert_capacity(), engine.expert_slots());
  };
  const auto [even, slots] = capacity(forced);
  EXPECT_EQ(even, slots);
  EXPECT_EQ(capacity(experts).first, slots * 5 / 4);
  expect_allocated(forced);
}

// A GPU that is not there: what its libraries take is estimated, and said to be.
TEST(MemoryTable, OfAGpuHasRowsForItsLibraries) {
  const auto gpu = [](Arguments more) {
    more.insert(more.end(), {"--device.kind=cuda", "--training.mixed_precision_param=bfloat16",
                             "--model_overrides.n_layers=5", "--training.local_batch_size=4"});
    const JobConfig config = load(more).config;
    const RunLayout layout = layout_of(config, 16);
    Stream meta(Device::meta());
    return memory_table(config, layout, 0, meta);
  };
  const Arguments pipeline = {"--nproc=16", "--parallelism.data_parallel_shard_degree=8",
                              "--parallelism.pipeline_parallel_degree=2"};
  const MemoryTable t = gpu(pipeline);
  // To the other rank and back; four messages of a microbatch wait at most.
  EXPECT_EQ(bytes_of(t, "NCCL, 2 links (fixed)"),
            (58 + 2 * (4 + 4 * 14 + 4 * 60 + 4 * 10)) * 1048576.0);
  const double edge = bytes_of(t, "edges for other ranks");
  EXPECT_EQ(bytes_of(t, "messages on their way (fixed)"), 4 * edge);
  for (const MemoryTable::Row& r : t.rows)
    if (r.owner.find("NCCL") != std::string::npos) {
      EXPECT_THAT(r.note, HasSubstr("upper bound"));
    }
  // cuDNN's gradient of attention needs more workspace in order than in any, and ours another.
  const auto pass = [&](const char* attention, const char* unordered) {
    Arguments more = pipeline;
    more.insert(more.end(), {"--model_overrides.attn_mask_type=causal", attention, unordered,
                             "--model_overrides.moe_inter_dim=8", "--model_overrides.inter_dim=8"});
    return bytes_of(gpu(more), "activations of a pass");
  };
  const char *own = "--device.attention=own", *cudnn = "--device.attention=cudnn",
             *unordered = "--device.unordered_attention=true",
             *ordered = "--device.unordered_attention=false";
  EXPECT_NE(pass(cudnn, unordered), pass(cudnn, ordered));
  EXPECT_NE(pass(own, ordered), pass(cudnn, ordered));
  EXPECT_EQ(pass(own, unordered), pass(own, ordered));
}

// Every schedule with every mode of recompute: what microbatches keep comes and goes as planned,
// and no stage reads what it has given back, which is overwritten.
TEST(MemoryTable, IsWhatPipelinesAllocateAndUseToTheByte) {
  for (const std::string& schedule : schedule_names())
    for (const char* recompute : {"none", "selective", "full"}) {
      expect_allocated({"--nproc=2", "--parallelism.pipeline_parallel_degree=2",
                        "--parallelism.pipeline_parallel_schedule=" + schedule,
                        "--model_overrides.n_layers=5", "--training.local_batch_size=6",
                        "--training.mixed_precision_param=bfloat16", "--device.poison_released",
                        fmt::format("--activation_checkpoint.mode={}", recompute)});
    }
}

TEST(MemoryTable, ARunThatDoesNotFitIsRefusedWithTheTableAndWhatWouldFit) {
  const LoadedConfig loaded = load({"--activation_checkpoint.mode=none"});
  Stream meta(Device::meta());
  const RunLayout layout = layout_of(loaded.config);
  const double need = memory_table(loaded.config, layout, 0, meta).total();
  check_fits(loaded.config, layout, 0, meta, need, 0);
  EXPECT_THAT(
      [&] { check_fits(loaded.config, layout, 0, meta, need - 1, 0); },
      ThrowsMessage<Error>(
          AllOf(HasSubstr("this machine has"), HasSubstr("optimizer (two f32 moments)"),
                HasSubstr("Settings that save:\n  --activation_checkpoint.mode=selective"),
                HasSubstr("--training.local_batch_size=1 --activation_checkpoint.mode=full saves"),
                HasSubstr(": fits\n"), Not(HasSubstr("offload")), Not(HasSubstr("split")))));
  EXPECT_THAT([&] { check_fits(loaded.config, layout, 0, meta, 1000, 0); },
              ThrowsMessage<Error>(HasSubstr("None of these is enough")));
}

// A GPU's run: what two bytes of each master and the moments take, to the byte.
TEST(MemoryTable, SettingsOfTheOptimizersStatesSaveTheirBytesOfTheDevice) {
  const auto table = [&](Arguments more) {
    more.insert(more.end(), {"--device.kind=cuda", "--training.mixed_precision_param=bfloat16"});
    return table_of(load(more).config);
  };
  const char *masters = "parameters (f32 masters)", *moments = "optimizer (two f32 moments)",
             *lacks = "parameters (f32 beyond bf16)", *chunks = "states on their way to the host";
  const MemoryTable plain = table({}), split = table({"--optimizer.master_dtype=split"}),
                    offloaded = table({"--optimizer.offload=moments"}),
                    states = table({"--optimizer.offload=states"}),
                    both = table({"--optimizer.offload=states", "--optimizer.master_dtype=split"});
  const double n = bytes_of(plain, masters) / 4;
  EXPECT_EQ(bytes_of(plain, moments), 8 * n);
  EXPECT_EQ(plain.host_total(), 0);
  const double norms = bytes_of(split, masters);  // stay f32
  EXPECT_GT(norms, 0);
  EXPECT_LT(norms, n / 4);
  EXPECT_EQ(bytes_of(split, lacks), 2 * n);
  EXPECT_EQ(plain.total() - split.total(), 2 * n - norms);
  EXPECT_EQ(bytes_of(offloaded, moments), 0);
  EXPECT_EQ(bytes_of(offloaded, moments, true), 8 * n);
  EXPECT_EQ(bytes_of(offloaded, chunks), 2 * 8 * n) << "fewer parameters than a chunk has";
  EXPECT_EQ(bytes_of(states, masters, true), 4 * n);
  EXPECT_EQ(bytes_of(states, masters), norms);
  EXPECT_EQ(bytes_of(states, chunks), 2 * 12 * n);
  EXPECT_EQ(bytes_of(both, lacks, true), 2 * n);
  EXPECT_EQ(both.host_total(), 10 * n);
  EXPECT_THAT(both.text(), HasSubstr("In host memory (pinned)\n  optimizer (two f32 moments)"));
}

// The settings of a refusal with what each saves and needs, in GiB, and whether it then fits.
struct Remedy {
  std::string setting;
  double saves = 0, needs = 0;
  bool fits = false;
};
std::vector<Remedy> remedies(const JobConfig& config, double available) {
  std::string message;
  try {
    Stream meta(Device::meta());
    check_fits(config, layout_of(config), 0, meta, available, 1e15);
  } catch (const Error& e) {
    message = e.what();
  }
  std::vector<Remedy> out;
  std::istringstream lines(message.substr(std::min(message.size(), message.find("Settings that"))));
  for (std::string line; std::getline(lines, line);) {
    const size_t saves = line.find(" saves "), needs = line.find(" GiB and needs ");
    if (saves == std::string::npos || needs == std::string::npos) continue;
    out.push_back({line.substr(2, saves - 2), std::stod(line.substr(saves + 7)),
                   std::stod(line.substr(needs + 15)), line.ends_with(": fits")});
  }
  return out;
}

TEST(MemoryTable, NamesRemediesFromTheOneThatCostsLeastOnWithWhatTheySave) {
  const Arguments file = {test::source_path("configs/slice1.toml"), "--device.kind=cuda",
                          "--activation_checkpoint.mode=none", "--training.local_batch_size=4"};
  TrainFlags flags;
  const JobConfig config = load_config(file, flags).config;
  const double need = table_of(config).total();
  const std::vector<Remedy> offered = remedies(config, 60 * kGiB);
  std::vector<std::string> settings;
  for (const Remedy& r : offered) {
    settings.push_back(r.setting);
    // As if the user had followed it.
    Arguments followed = file;
    std::istringstream words(r.setting);
    for (std::string word; words >> word;) followed.push_back(word);
    const double left = table_of(load_config(followed, flags).config).total();
    EXPECT_NEAR(r.needs, left / kGiB, 0.0051) << r.setting;
    EXPECT_NEAR(r.saves, (need - left) / kGiB, 0.0051) << r.setting;
    EXPECT_EQ(r.fits, left <= 60 * kGiB) << r.setting;
  }
  EXPECT_THAT(
      settings,
      ElementsAre(
          "--optimizer.master_dtype=split",
          "--activation_checkpoint.mode=selective --activation_checkpoint.selective_ac_option=op",
          "--activation_checkpoint.mode=full",
          "--training.local_batch_size=1 --activation_checkpoint.mode=full",
          "--optimizer.offload=moments", "--optimizer.offload=states",
          "--optimizer.offload=states --optimizer.master_dtype=split",
          "--optimizer.offload=states --training.local_batch_size=1 "
          "--activation_checkpoint.mode=full"));
}

TEST(MemoryTable, ARefusedRunOfAGpuNamesWhatTheOptimizersSettingsSave) {
  TrainFlags flags;
  const Arguments file = {test::source_path("configs/slice1.toml"), "--device.kind=cuda"};
  const LoadedConfig loaded = load_config(file, flags);
  const RunLayout layout = layout_of(loaded.config);
  Stream meta(Device::meta());
  EXPECT_THAT([&] { check_fits(loaded.config, layout, 0, meta, 50 * kGiB, 1e15); },
              ThrowsMessage<Error>(AllOf(HasSubstr("\n  --optimizer.master_dtype=split saves "),
                                         HasSubstr("\n  --optimizer.offload=moments saves "),
                                         HasSubstr("\n  --optimizer.offload=states saves "))));
  const LoadedConfig states =
      load_config(Arguments{file[0], file[1], "--optimizer.offload=states"}, flags);
  EXPECT_THAT(
      [&] { check_fits(states.config, layout, 0, meta, 80 * kGiB, 20 * kGiB); },
      ThrowsMessage<Error>(AllOf(HasSubstr("optimizer.offload = \"states\" keeps "),
                                 HasSubstr("of this rank's states in the host's memory, which has "
                                           "20.00 GiB left. More ranks"))));
}

}  // namespace
}  // namespace nereus
