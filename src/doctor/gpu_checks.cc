#include "doctor/gpu_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace nereus::doctor {
namespace {

constexpr int64_t kBusyBytes = int64_t{2} << 30;  // the driver itself keeps up to 1 GiB
constexpr unsigned kHotMargin = 5;                // degrees below where clocks fall
constexpr double kSlowPair = 0.7;                 // of the pairs' median
constexpr int kOldestDriver[] = {535, 129, 3};    // the recipe's requirement
#ifdef NEREUS_CUDA
constexpr int kOldestCuda = 13000;
#endif

constexpr const char* kDrain =
    "Reset it (nvidia-smi --gpu-reset -i {}); when it comes back, have the node drained.";

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

// "550.54.15" against the oldest.
bool is_old(const std::string& driver) {
  const char* at = driver.c_str();
  for (const int oldest : kOldestDriver) {
    char* end = nullptr;
    const long part = std::strtol(at, &end, 10);
    if (end == at) return false;
    if (part != oldest) return part < oldest;
    if (*end != '.') return false;
    at = end + 1;
  }
  return false;
}

class Judge {
 public:
  Judge(const GpuFacts& gpu, std::vector<Finding>& out) : gpu_(gpu), out_(out) {}

  void run() {
    const size_t before = out_.size();
    if (!gpu_.error.empty()) {
      add("", Verdict::failed, "the driver cannot use it: " + gpu_.error,
          fmt::format(fmt::runtime(kDrain), gpu_.index));
      return;
    }
    memory();
    clocks();
    wiring();
    users();
    if (out_.size() == before) add("", Verdict::ok, summary(), "");
  }

 private:
  void add(const char* part, Verdict v, std::string found, std::string remedy) {
    out_.push_back({fmt::format("GPU {}{}{}", gpu_.index, *part ? " " : "", part), v,
                    std::move(found), std::move(remedy)});
  }

  std::string summary() const {
    std::string s = fmt::format("{}, {:.0f} GiB", gpu_.name, gib(gpu_.memory_bytes));
    if (gpu_.temperature) s += fmt::format(", {} C", *gpu_.temperature);
    if (gpu_.power && gpu_.power_limit)
      s += fmt::format(", {:.0f} of {:.0f} W", *gpu_.power, *gpu_.power_limit);
    if (gpu_.sm_clock && gpu_.sm_clock_max)
      s += fmt::format(", {} of {} MHz", *gpu_.sm_clock, *gpu_.sm_clock_max);
    if (gpu_.ecc) s += *gpu_.ecc ? ", no ECC error" : "";
    if (gpu_.links > 0) s += fmt::format(", {} NVLinks", gpu_.links_active);
    return s;
  }

  void memory() {
    if (gpu_.uncorrected_errors.value_or(0) > 0)
      add("memory", Verdict::failed,
          fmt::format("{} uncorrected ECC errors since the driver was loaded",
                      *gpu_.uncorrected_errors),
          fmt::format(fmt::runtime(kDrain), gpu_.index));
    if (gpu_.remap_failed)
      add("memory", Verdict::failed, "row remapping failed: a faulty row of memory has no spare",
          "Replace the GPU: have the node drained.");
    if (gpu_.remap_pending)
      add("memory", Verdict::warning, "row remapping pending: a reset is needed",
          fmt::format("Reset it when nobody uses it: nvidia-smi --gpu-reset -i {}.", gpu_.index));
    if (gpu_.ecc && !*gpu_.ecc)
      add("memory", Verdict::warning, "ECC is off: bit flips go undetected",
          fmt::format("nvidia-smi -i {} -e 1, then reset it.", gpu_.index));
  }

  void clocks() {
    const uint64_t why = gpu_.slowdown.value_or(0);
    const auto held = [&](uint64_t bit, const char* what, Verdict v, const char* remedy) {
      if (why & bit)
        add("clock", v,
            fmt::format("throttled by {}{}", what,
                        gpu_.sm_clock && gpu_.sm_clock_max
                            ? fmt::format(": {} of {} MHz", *gpu_.sm_clock, *gpu_.sm_clock_max)
                            : ""),
            remedy);
    };
    held(slowdown::kHardwareThermal, "the hardware, too hot", Verdict::failed,
         "Look at the node's cooling; have it drained.");
    held(slowdown::kPowerBrake, "the power brake (the node's power supply)", Verdict::failed,
         "Look at the node's power supplies; have it drained.");
    // The first bit comes with the two above.
    if (!(why & (slowdown::kHardwareThermal | slowdown::kPowerBrake)))
      held(slowdown::kHardware, "the hardware", Verdict::failed,
           "Look at temperature and power: nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE.");
    held(slowdown::kSoftwareThermal, "the driver, too hot", Verdict::warning,
         "Look at the node's cooling.");
    held(slowdown::kApplicationClocks, "application clocks that were set", Verdict::warning,
         "Reset them: nvidia-smi -rac, nvidia-smi -rgc.");
    if (gpu_.temperature && gpu_.slowdown_at && *gpu_.slowdown_at > 0 &&
        *gpu_.temperature + kHotMargin >= *gpu_.slowdown_at)
      add("temperature", Verdict::warning,
          fmt::format("{} C before the run, and clocks fall at {} C", *gpu_.temperature,
                      *gpu_.slowdown_at),
          "Look at the node's cooling.");
    if (gpu_.power_limit && gpu_.power_default && *gpu_.power_limit + 1 < *gpu_.power_default)
      add("power", Verdict::warning,
          fmt::format("limited to {:.0f} W, {:.0f} W is its default", *gpu_.power_limit,
                      *gpu_.power_default),
          fmt::format("nvidia-smi -i {} -pl {:.0f}", gpu_.index, *gpu_.power_default));
  }

  void wiring() {
    if (gpu_.pcie_width && gpu_.pcie_width_max && *gpu_.pcie_width < *gpu_.pcie_width_max)
      add("PCIe", Verdict::warning,
          fmt::format("{} of {} lanes", *gpu_.pcie_width, *gpu_.pcie_width_max),
          "Copies from and to the host, and network cards next to it, are slower: have it "
          "reseated.");
    if (gpu_.links_active < gpu_.links)
      add("NVLink", Verdict::failed,
          fmt::format("{} of {} links are up", gpu_.links_active, gpu_.links),
          "Look at nvidia-smi nvlink -s and at the fabric manager; have the node drained.");
    if (gpu_.link_errors > 0)
      add("NVLink", Verdict::warning,
          fmt::format("{} replays, recoveries and checksum errors", gpu_.link_errors),
          "If they grow during a run (nvidia-smi nvlink -e), have the node drained.");
    if (gpu_.fabric && *gpu_.fabric != 3)
      add("fabric", Verdict::failed,
          *gpu_.fabric == 2 ? "its start is in progress" : "the NVSwitch fabric has not started",
          "Start the fabric manager: systemctl start nvidia-fabricmanager.");
    if (gpu_.fabric == 3u && gpu_.fabric_status.value_or(0) != 0)
      add("fabric", Verdict::failed,
          fmt::format("the NVSwitch fabric reports error {}", *gpu_.fabric_status),
          "Look at the fabric manager's log: journalctl -u nvidia-fabricmanager.");
  }

  void users() {
    if (gpu_.mig.value_or(false))
      add("MIG", Verdict::failed, "it is cut into instances",
          fmt::format("nvidia-smi -i {} -mig 0, when nobody uses it.", gpu_.index));
    if (!gpu_.processes.empty() || gpu_.memory_used > kBusyBytes)
      add("users", Verdict::warning,
          fmt::format("{:.1f} GiB in use{}{}", gib(gpu_.memory_used),
                      gpu_.processes.empty() ? "" : ", by processes ",
                      fmt::join(gpu_.processes, ", ")),
          "Another job uses it, or an earlier one has not ended.");
  }

  const GpuFacts& gpu_;
  std::vector<Finding>& out_;
};

}  // namespace

std::vector<Finding> judge_gpus(const GpuInventory& inventory, int expected) {
  std::vector<Finding> out;
  const size_t n = inventory.gpus.size();
  const auto want = static_cast<size_t>(expected);
  if (n == 0) {
    out.push_back(
        {"GPUs", expected > 0 ? Verdict::failed : Verdict::warning,
         fmt::format("none{}{}", expected > 0 ? fmt::format(", {} are expected: ", expected) : ": ",
                     inventory.error.empty() ? "the driver shows none" : inventory.error),
         "On a GPU node: look at nvidia-smi, and start containers with its GPUs. Training works on "
         "the CPU (--device.kind=cpu)."});
    return out;
  }
  const bool same = std::all_of(inventory.gpus.begin(), inventory.gpus.end(), [&](const auto& g) {
    return g.name == inventory.gpus[0].name || !g.error.empty();
  });
  out.push_back(
      {"GPUs",
       expected > 0 && n != want ? Verdict::failed : (same ? Verdict::ok : Verdict::warning),
       fmt::format("{}{}{}", n, same ? " x " + inventory.gpus[0].name : " of several kinds",
                   expected > 0 && n != want ? fmt::format(", {} are expected", expected) : ""),
       expected > 0 && n < want
           ? "A GPU has fallen off the bus (dmesg | grep -i xid), or Slurm gives fewer: "
             "have the node drained, or set GPUS_PER_NODE."
           : (expected > 0 && n > want ? "Set GPUS_PER_NODE to what the node has." : "")});
  const bool old = is_old(inventory.driver);
  out.push_back({"driver", old ? Verdict::failed : Verdict::ok,
                 fmt::format("{}, CUDA {}.{}", inventory.driver, inventory.cuda / 1000,
                             inventory.cuda % 1000 / 10),
                 old ? "The recipe needs 535.129.03 or newer: update the driver." : ""});
#ifdef NEREUS_CUDA
  if (inventory.cuda > 0 && inventory.cuda < kOldestCuda) {
    out.back().verdict = Verdict::failed;
    out.back().remedy = fmt::format("This program needs a driver for CUDA {}.{}: update it.",
                                    kOldestCuda / 1000, kOldestCuda % 1000 / 10);
  }
#endif
  for (const GpuFacts& gpu : inventory.gpus) Judge(gpu, out).run();
  return out;
}

Finding judge_peers(const std::vector<std::vector<double>>& bandwidth) {
  std::vector<double> all;
  std::string apart, slow;
  const auto each = [&](const auto& body) {
    for (size_t i = 0; i < bandwidth.size(); ++i)
      for (size_t j = 0; j < bandwidth.size(); ++j)
        if (i != j) body(i, j, bandwidth[i][j]);
  };
  const auto name = [](std::string& list, size_t i, size_t j) {
    list += fmt::format("{}{} to {}", list.empty() ? "" : ", ", i, j);
  };
  each([&](size_t i, size_t j, double b) {
    if (b < 0)
      name(apart, i, j);
    else
      all.push_back(b);
  });
  std::sort(all.begin(), all.end());
  const double median = all.empty() ? 0 : all[all.size() / 2];
  each([&](size_t i, size_t j, double b) {
    if (b >= 0 && b < kSlowPair * median) name(slow, i, j);
  });
  Finding f{"peer bandwidth", Verdict::ok,
            all.empty() ? "no peer access between any two GPUs"
                        : fmt::format("{} pairs, {:.0f} to {:.0f} GB/s", all.size(),
                                      all.front() / 1e9, all.back() / 1e9),
            ""};
  if (!apart.empty()) {
    f.verdict = Verdict::warning;
    f.remedy = fmt::format("No peer access from {}: transfers go through host memory.", apart);
  }
  if (!slow.empty()) {
    f.verdict = Verdict::warning;
    f.found += fmt::format("; slow: {}", slow);
    f.remedy =
        "Look at nvidia-smi topo -m and nvidia-smi nvlink -s; all ranks wait for the slowest.";
  }
  return f;
}

}  // namespace nereus::doctor
