#include "cli/bench_checkpoint_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <vector>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/units.h"
#include "checkpoint/checksum.h"
#include "checkpoint/rank_slices.h"
#include "checkpoint/shard_save.h"
#include "checkpoint/state_load.h"
#include "parallel/mesh.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kColumns = 4096, kRows = 6144;  // of a tensor: 96 MiB in f32
constexpr int64_t kBlock = int64_t{16} << 20;     // bytes that dd writes at once, and we

double median_of(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<long>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

// One of `ranks` that divide some tensors, and its three states.
struct Rank {
  Rank(int64_t tensors, int rank, int ranks) : mesh({}, ranks) {
    std::vector<StoredTensor> stored;
    for (int64_t i = 0; i < tensors; ++i) {
      const std::string name = fmt::format("layers.{}.weight", i);
      stored.push_back(
          {.name = name,
           .shape = {kRows, kColumns},
           .parts = {{.parameter = {.name = name, .shape = {kRows, kColumns}, .initial = {}}}}});
    }
    layout = std::make_unique<StoreLayout>(std::move(stored), shard_counts(mesh));
    slices = rank_slices(*layout, mesh, rank);
    for (const SavedState s :
         {SavedState::model, SavedState::first_moment, SavedState::second_moment}) {
      memory.emplace_back(Device::cpu(), 4 * layout->elements(), "states");
      auto* const x = reinterpret_cast<uint32_t*>(memory.back().data());
      for (int64_t i = 0; i < layout->elements(); ++i)
        x[i] = static_cast<uint32_t>(i) * 2654435761u;
      states.push_back(
          {.state = s, .view = TensorView(memory.back().data(), DType::f32, {layout->elements()})});
    }
  }

  Mesh mesh;
  std::unique_ptr<StoreLayout> layout;
  RankSlices slices;
  std::vector<Buffer> memory;
  std::vector<FlatState> states;
};

// Seconds that as many processes take together for what `make` returns, each having made it before
// the clock starts.
double processes(int n, const std::function<std::function<void()>(int)>& make) {
  std::array<int, 2> ready{}, start{};
  NEREUS_CHECK(kIo, ::pipe(ready.data()) == 0 && ::pipe(start.data()) == 0, "no pipe");
  std::vector<pid_t> children;
  for (int r = 0; r < n; ++r) {
    const pid_t child = ::fork();
    NEREUS_CHECK(kIo, child >= 0, "no process");
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    ::close(ready[0]);
    ::close(start[1]);  // ends the wait if the parent dies
    int code = 0;
    try {
      const std::function<void()> work = make(r);
      char byte = 0;
      if (::write(ready[1], &byte, 1) != 1 || ::read(start[0], &byte, 1) != 1) ::_exit(1);
      work();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      code = 1;
    }
    ::_exit(code);
  }
  char byte = 0;
  for (int r = 0; r < n; ++r)
    NEREUS_CHECK(kIo, ::read(ready[0], &byte, 1) == 1, "a process ended before it began");
  const auto begin = Clock::now();
  for (int r = 0; r < n; ++r) NEREUS_CHECK(kIo, ::write(start[1], &byte, 1) == 1, "no start");
  bool good = true;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    good = good && status == 0;
  }
  const double seconds = seconds_since(begin);
  for (const int fd : {ready[0], ready[1], start[0], start[1]}) ::close(fd);
  NEREUS_CHECK(kIo, good, "a process has failed");
  return seconds;
}

void run(const std::string& command) {
  NEREUS_CHECK(kIo, std::system(command.c_str()) == 0, "{}: it has failed", command);
}

// From the disk next time.
void forget_pages(const std::string& folder) {
  for (const fs::directory_entry& e : fs::directory_iterator(folder)) {
    const int fd = ::open(e.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

class DiskBench {
 public:
  explicit DiskBench(const BenchCheckpointDisk& o)
      : folder_(o.folder + "/disk"),
        pairs_(o.pairs),
        tensors_(std::max<int64_t>(
            1,
            static_cast<int64_t>(o.gib * kGiB / (12.0 * static_cast<double>(kRows * kColumns))))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    bytes_ = 12 * tensors_ * kRows * kColumns;
  }
  ~DiskBench() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  std::string text() {
    std::string out = fmt::format("{:.2f} GiB of states in {}, medians of {} by turns\n",
                                  static_cast<double>(bytes_) / kGiB, folder_, pairs_);
    for (const int ranks : {1, 8}) {
      std::vector<double> save, dd_write, load, dd_read;
      for (int i = 0; i < pairs_; ++i) {
        dd_write.push_back(dd(ranks, true));
        save.push_back(save_by(ranks));
        forget_pages(folder_);
        dd_read.push_back(dd(ranks, false));
        forget_pages(folder_);
        load.push_back(load_by(ranks, ranks));
      }
      out += row(fmt::format("save, {} process{}", ranks, ranks > 1 ? "es" : ""), save, dd_write);
      out += row(fmt::format("load, {} process{}", ranks, ranks > 1 ? "es" : ""), load, dd_read);
    }
    std::vector<double> plain, other;
    for (int i = 0; i < pairs_; ++i) {
      save_by(3);
      forget_pages(folder_);
      plain.push_back(load_by(3, 3));
      save_by(8);
      forget_pages(folder_);
      other.push_back(load_by(8, 3));
    }
    out +=
        fmt::format("{:<22}{:7.2f} s; of their own files {:7.2f} s: {:.2f} times (stated: 1.5)\n",
                    "load, 8 ranks' by 3", median_of(other), median_of(plain),
                    median_of(other) / median_of(plain));
    return out + checksum_row();
  }

 private:
  static std::string name(int rank, int ranks) {
    return fmt::format("shard-{}-of-{}", rank, ranks);
  }

  std::string part(int rank, int ranks) const {
    return folder_ + "/" + name(rank, ranks) + ".json";
  }

  std::string row(const std::string& what, const std::vector<double>& ours,
                  const std::vector<double>& dd) const {
    const auto rate = [&](double s) { return static_cast<double>(bytes_) / 1e6 / s; };
    return fmt::format("{:<22}{:7.0f} MB/s; dd {:7.0f} MB/s: {:5.1f} % (stated: 85)\n", what,
                       rate(median_of(ours)), rate(median_of(dd)),
                       100 * median_of(dd) / median_of(ours));
  }

  // As many dd at once, each a part of the bytes, flushed to the disk.
  double dd(int n, bool write) const {
    std::string all;
    for (int i = 0; i < n; ++i)
      all +=
          write
              ? fmt::format("dd if=/dev/zero of={}/dd-{} bs={} count={} conv=fsync 2>/dev/null & ",
                            folder_, i, kBlock, bytes_ / n / kBlock)
              : fmt::format("dd if={}/dd-{} of=/dev/null bs={} 2>/dev/null & ", folder_, i, kBlock);
    const auto begin = Clock::now();
    run(all + "wait");
    const double seconds = seconds_since(begin);
    if (!write)
      for (int i = 0; i < n; ++i) fs::remove(fmt::format("{}/dd-{}", folder_, i));
    return seconds;
  }

  double save_by(int ranks) {
    return processes(ranks, [&](int rank) -> std::function<void()> {
      auto mine = std::make_shared<Rank>(tensors_, rank, ranks);
      return [this, mine, rank, ranks] {
        ThreadPool pool(1);
        Stream stream(Device::cpu(), &pool);
        const Manifest m = save_shard(folder_, name(rank, ranks),
                                      {.slices = mine->slices, .states = mine->states}, stream);
        const std::error_code error = replace_file(part(rank, ranks), to_text(m));
        NEREUS_CHECK(kIo, !error, "{}: {}", part(rank, ranks), error.message());
      };
    });
  }

  Manifest manifest(int ranks) const {
    std::vector<Manifest> parts;
    for (int r = 0; r < ranks; ++r) {
      std::ifstream in(part(r, ranks));
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      parts.push_back(parse_manifest(text, part(r, ranks)));
    }
    return merge(std::move(parts));
  }

  double load_by(int wrote, int ranks) {
    const Manifest m = manifest(wrote);
    return processes(ranks, [&](int rank) -> std::function<void()> {
      auto mine = std::make_shared<Rank>(tensors_, rank, ranks);
      return [this, mine, &m] {
        ThreadPool pool(1);
        Stream stream(Device::cpu(), &pool);
        load_states(folder_, m, {.slices = mine->slices, .states = mine->states}, stream);
      };
    });
  }

  std::string checksum_row() const {
    std::vector<uint32_t> x(static_cast<size_t>(kBlock / 4), 12345);
    std::vector<double> seconds;
    uint64_t sum = 0;
    for (int i = 0; i < 20; ++i) {
      const auto begin = Clock::now();
      sum += checksum(reinterpret_cast<const std::byte*>(x.data()), 4,
                      static_cast<int64_t>(x.size()), i);
      seconds.push_back(seconds_since(begin));
    }
    return fmt::format("checksum of {} MiB: {:.1f} GB/s on a thread ({:x})\n", kBlock >> 20,
                       static_cast<double>(kBlock) / 1e9 / median_of(seconds), sum);
  }

  const std::string folder_;
  const int pairs_;
  const int64_t tensors_;
  int64_t bytes_ = 0;
};

}  // namespace

std::string bench_checkpoint_disk(const BenchCheckpointDisk& options) {
  return DiskBench(options).text();
}

}  // namespace nereus
