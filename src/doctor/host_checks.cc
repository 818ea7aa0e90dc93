#include "doctor/host_checks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/files.h"

namespace nereus::doctor {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMib = int64_t{1} << 20;
constexpr int64_t kGib = int64_t{1} << 30;
constexpr int64_t kLeastFiles = 4096;      // rank 0 keeps one a rank, NCCL several a peer
constexpr int64_t kLeastStack = 2 * kMib;  // the recursion of libraries, not ours
constexpr int64_t kLeastProcesses = 4096;  // NCCL and the pool start threads a rank
constexpr int64_t kLeastShared = kGib;     // NCCL's buffers: some 10 MiB a pair of ranks
constexpr int64_t kLeastFree = kGib, kFewFree = 20 * kGib;
constexpr double kSlowWrite = 100e6;  // bytes a second
constexpr double kWriteSeconds = 10;  // at most

std::string amount(int64_t bytes) {
  if (bytes < 0) return "unlimited";
  if (bytes >= kGib) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
  return fmt::format("{:.0f} MiB", static_cast<double>(bytes) / (1 << 20));
}
std::string number(int64_t n) { return n < 0 ? "unlimited" : fmt::format("{}", n); }
bool below(int64_t limit, int64_t least) { return limit >= 0 && limit < least; }

int64_t limit(rlim_t value) {
  return value == RLIM_INFINITY ? -1 : static_cast<int64_t>(std::min<rlim_t>(value, INT64_MAX));
}

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// Seconds to write and synchronise `bytes`, and how many it were: the time is limited.
struct Written {
  int64_t bytes = 0;
  double seconds = 0;
  int error = 0;
};
Written write_file(int fd, int64_t bytes) {
  using Clock = std::chrono::steady_clock;
  const std::vector<char> piece(static_cast<size_t>(8 * kMib), 'n');
  Written w;
  const auto begin = Clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  while (w.bytes < bytes && passed() < kWriteSeconds) {
    const auto ask = std::min(static_cast<int64_t>(piece.size()), bytes - w.bytes);
    const ssize_t n = ::write(fd, piece.data(), static_cast<size_t>(ask));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      w.error = errno;
      break;
    }
    w.bytes += n;
  }
  if (w.error == 0 && ::fsync(fd) != 0) w.error = errno;
  w.seconds = passed();
  return w;
}

}  // namespace

Limits read_limits() {
  const auto read = [](auto what, bool hard) {
    rlimit r{};
    return getrlimit(what, &r) == 0 ? limit(hard ? r.rlim_max : r.rlim_cur) : int64_t{-1};
  };
  return {.memlock = read(RLIMIT_MEMLOCK, false),
          .files = read(RLIMIT_NOFILE, false),
          .files_hard = read(RLIMIT_NOFILE, true),
          .stack = read(RLIMIT_STACK, false),
          .processes = read(RLIMIT_NPROC, false)};
}

std::vector<Finding> judge_limits(const Limits& l, bool rdma) {
  std::vector<Finding> out;
  const bool locked = below(l.memlock, 64 * kGib) && rdma;
  out.push_back({"ulimit -l", locked ? Verdict::failed : Verdict::ok, amount(l.memlock),
                 locked ? "Network cards must lock what they send: set it to unlimited in "
                          "/etc/security/limits.conf, and LimitMEMLOCK=infinity for slurmd."
                        : ""});
  const bool few = below(l.files_hard, kLeastFiles);
  out.push_back(
      {"ulimit -n", few ? Verdict::warning : Verdict::ok,
       fmt::format("{}, raised by itself up to {}", number(l.files), number(l.files_hard)),
       few ? fmt::format("{} or more are needed for many ranks: raise the hard limit.", kLeastFiles)
           : ""});
  const bool shallow = below(l.stack, kLeastStack);
  out.push_back({"ulimit -s", shallow ? Verdict::warning : Verdict::ok, amount(l.stack),
                 shallow ? "8 MiB is usual: ulimit -s 8192." : ""});
  const bool lonely = below(l.processes, kLeastProcesses);
  out.push_back(
      {"ulimit -u", lonely ? Verdict::warning : Verdict::ok, number(l.processes),
       lonely ? fmt::format("Threads count too: {} or more are needed.", kLeastProcesses) : ""});
  return out;
}

Finding check_shared_memory(const std::string& path, int gpus) {
  struct statvfs s {};
  const Verdict wrong = gpus > 1 ? Verdict::failed : Verdict::warning;
  if (statvfs(path.c_str(), &s) != 0 || access(path.c_str(), W_OK) != 0)
    return {path, wrong, fmt::format("cannot be written to: {}", std::strerror(errno)),
            "Mount a tmpfs there: ranks of a node exchange data through it."};
  const auto size = static_cast<int64_t>(s.f_blocks * s.f_frsize);
  const auto free = static_cast<int64_t>(s.f_bavail * s.f_frsize);
  const bool small = free < kLeastShared;
  return {path, small ? wrong : Verdict::ok, fmt::format("{}, {} free", amount(size), amount(free)),
          small
              ? "Ranks of a node exchange data through it: start the container with --shm-size=16g "
                "or --ipc=host, or remove what earlier jobs left there."
              : ""};
}

std::vector<Finding> check_folder(const std::string& path, int64_t bytes) {
  if (!is_folder(path))
    return {{path, Verdict::failed, "there is no such folder",
             "Make it, or see whether its file system is mounted on this node."}};
  struct statvfs s {};
  if (statvfs(path.c_str(), &s) != 0)
    return {{path, Verdict::failed, std::strerror(errno),
             "See whether its file system is mounted on this node."}};
  const auto free = static_cast<int64_t>(s.f_bavail * s.f_frsize);
  std::string name = (fs::path(path) / ".nereus-doctor-XXXXXX").string();
  const int fd = ::mkstemp(name.data());
  if (fd < 0)
    return {{path, Verdict::failed, fmt::format("cannot be written to: {}", std::strerror(errno)),
             "Choose a folder that you may write to (LLMB_INSTALL, job.dump_folder)."}};
  const Written w = write_file(fd, std::min(bytes, free / 2));
  ::close(fd);
  ::unlink(name.c_str());
  if (w.error != 0)
    return {{path, Verdict::failed, fmt::format("writing failed: {}", std::strerror(w.error)),
             "Make space, or look at your quota (lfs quota, quota -s)."}};
  std::vector<Finding> out;
  const Verdict space =
      free < kLeastFree ? Verdict::failed : (free < kFewFree ? Verdict::warning : Verdict::ok);
  out.push_back({path + " space", space, amount(free) + " free",
                 space == Verdict::ok ? "" : "Make space: logs, metrics and traces go there."});
  const double rate = static_cast<double>(w.bytes) / std::max(1e-6, w.seconds);
  out.push_back(
      {path + " speed", rate < kSlowWrite ? Verdict::warning : Verdict::ok,
       fmt::format("{:.0f} MB/s ({} written and synchronised)", rate / 1e6, amount(w.bytes)),
       rate < kSlowWrite ? "Slow for weights and traces: use the cluster's parallel file "
                           "system."
                         : ""});
  return out;
}

std::vector<NetworkPort> read_ports(const std::string& root) {
  std::vector<NetworkPort> out;
  std::error_code error;
  for (const auto& device : entries_of(root, error)) {
    for (const auto& port : entries_of(device.path() / "ports", error)) {
      NetworkPort p;
      p.name = device.path().filename().string() + "/" + port.path().filename().string();
      const std::string state = first_line(port.path() / "state");  // "4: ACTIVE"
      p.state = state.substr(std::min(state.find(": ") + 2, state.size()));
      p.layer = first_line(port.path() / "link_layer");
      p.gigabits = std::strtod(first_line(port.path() / "rate").c_str(), nullptr);  // "400 Gb/sec"
      for (const char* counter : {"link_downed", "link_error_recovery"})
        p.errors +=
            std::strtoull(first_line(port.path() / "counters" / counter).c_str(), nullptr, 10);
      out.push_back(p);
    }
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

std::vector<Finding> judge_ports(const std::vector<NetworkPort>& ports) {
  if (ports.empty())
    return {{"InfiniBand", Verdict::skipped,
             "no InfiniBand or RoCE card: ranks of several nodes talk through TCP", ""}};
  std::map<double, int> rates;
  std::string down, errors;
  double fastest = 0;
  for (const NetworkPort& p : ports) {
    const bool active = p.state == "ACTIVE";
    if (!active) down += fmt::format("{}{} ({})", down.empty() ? "" : ", ", p.name, p.state);
    if (active) ++rates[p.gigabits];
    if (active) fastest = std::max(fastest, p.gigabits);
    if (p.errors > 0)
      errors += fmt::format("{}{} {}", errors.empty() ? "" : ", ", p.name, p.errors);
  }
  std::string found = rates.empty() ? "no port is up" : "";
  for (const auto& [rate, n] : rates)
    found += fmt::format("{}{} x {:.0f} Gb/s", found.empty() ? "" : ", ", n, rate);
  std::vector<Finding> out = {{"InfiniBand", rates.empty() ? Verdict::failed : Verdict::ok, found,
                               rates.empty() ? "Look at ibstat and the subnet manager." : ""}};
  if (!down.empty())
    out.push_back({"InfiniBand ports", Verdict::warning, "not up: " + down,
                   "Ports in use on other nodes must be up here too; leave unused ones out with "
                   "NCCL_IB_HCA."});
  if (rates.size() > 1)
    out.push_back(
        {"InfiniBand rates", Verdict::warning,
         fmt::format("ports of different rates; the fastest is {:.0f} Gb/s", fastest),
         "A slower port may be a bad cable (ibstat), or a card for storage: name those of "
         "the fabric with NCCL_IB_HCA."});
  if (!errors.empty())
    out.push_back({"InfiniBand errors", Verdict::warning, "links went down: " + errors,
                   "If the numbers grow during a run, have cable and port looked at."});
  return out;
}

}  // namespace nereus::doctor
