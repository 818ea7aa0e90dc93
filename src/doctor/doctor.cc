#include "doctor/doctor.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "device/device.h"
#include "doctor/gpu_checks.h"
#include "doctor/host_checks.h"
#include "doctor/network_checks.h"
#ifdef NEREUS_CUDA
#include "device/cuda_runtime.h"
#endif

namespace nereus::doctor {
namespace {

constexpr hub::HttpTimeouts kHubTimeouts{.connect_seconds = 5, .total_seconds = 10};

Finding check_peers([[maybe_unused]] bool asked, [[maybe_unused]] size_t gpus) {
  const char* const what = "peer bandwidth";
#ifdef NEREUS_CUDA
  if (!asked) return {what, Verdict::skipped, "not asked for", ""};
  try {
    const int n = cuda::device_count();
    if (n < 2) return {what, Verdict::skipped, fmt::format("{} GPU can be used", n), ""};
    constexpr int64_t kBytes = int64_t{256} << 20;
    std::vector<std::vector<double>> all(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j)
        all[static_cast<size_t>(i)].push_back(i == j ? 0 : cuda::peer_bandwidth(i, j, kBytes));
    return judge_peers(all);
  } catch (const Error& e) {
    return {what, Verdict::failed, e.what(), "Look at nvidia-smi and dmesg."};
  }
#else
  return {what, Verdict::skipped,
          gpus == 0 ? "no GPU" : "this program was built without CUDA (make PRESET=cuda)", ""};
#endif
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "this machine";
}

}  // namespace

Report examine(const Options& o) {
  Report r;
  r.host = host_name();
  r.time = fmt::format("{:%Y-%m-%d %H:%M:%S}Z", fmt::gmtime(std::time(nullptr)));
  const auto add = [&](std::vector<Finding> more) {
    r.findings.insert(r.findings.end(), more.begin(), more.end());
  };
  const GpuInventory inventory = read_gpus(o.nvml);
  const auto gpus = static_cast<int>(inventory.gpus.size());
  add(judge_gpus(inventory, o.gpus));
  add({check_peers(o.peers, inventory.gpus.size())});
  add(check_libraries(gpus));
  const std::vector<NetworkPort> ports = read_ports();
  add(judge_ports(ports));
  add(judge_limits(read_limits(), !ports.empty()));
  add({check_shared_memory("/dev/shm", gpus)});
  for (const std::string& folder : o.folders) add(check_folder(folder, o.write_bytes));
  add({check_kernel_clock()});
  if (!o.time_server.empty()) add({check_time_server(o.time_server)});
  if (o.hub) add(check_hub(*o.hub, kHubTimeouts, o.time_server.empty()));
  return r;
}

}  // namespace nereus::doctor
