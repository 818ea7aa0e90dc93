#include "observe/kernel_times.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/log.h"

namespace nereus {

KernelClass kernel_class(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("ncclDevKernel") || has("meet_kernel") || has("peer_permute") || has("peer_combine") ||
      has("peer_dot"))
    return KernelClass::communication;
  if (name == "copy" || name == "fill") return KernelClass::copy;
  if (has("sdpa") || has("cudnn") || has("flash") || has("cuda::hopper::"))
    return KernelClass::attention;
  if (has("nvjet") || has("gemm") || has("cutlass") || has("splitK")) return KernelClass::gemm;
  return KernelClass::memory_bound;
}

namespace {

double& time_of(KernelTimes& t, KernelClass kind) {
  switch (kind) {
    case KernelClass::gemm:
      return t.gemms;
    case KernelClass::attention:
      return t.attention;
    case KernelClass::copy:
      return t.copies;
    case KernelClass::communication:
      return t.communication;
    case KernelClass::memory_bound:
      break;
  }
  return t.memory_bound;
}

// ns that runs of `sorted` take together, each moment counted once.
template <class Counts>
uint64_t covered(const std::vector<KernelRun>& sorted, Counts counts) {
  uint64_t sum = 0, until = 0;
  for (const KernelRun& r : sorted) {
    if (!counts(r)) continue;
    if (r.end > until) sum += r.end - std::max(until, r.begin);
    until = std::max(until, r.end);
  }
  return sum;
}

}  // namespace

KernelTimes add_up(std::vector<KernelRun> runs, KernelClass (*class_of)(const std::string&)) {
  KernelTimes out;
  if (runs.empty()) return out;
  std::sort(runs.begin(), runs.end(),
            [](const KernelRun& a, const KernelRun& b) { return a.begin < b.begin; });
  std::map<std::string, KernelTimes::Kernel> by_name;
  uint64_t last = 0;
  for (const KernelRun& r : runs) {
    KernelTimes::Kernel& k = by_name[r.name];
    const double seconds = 1e-9 * static_cast<double>(r.end - r.begin);
    k.name = r.name;
    ++k.launches;
    k.seconds += seconds;
    time_of(out, class_of(r.name)) += seconds;
    last = std::max(last, r.end);
  }
  for (const auto& [name, k] : by_name) out.kernels.push_back(k);
  std::sort(out.kernels.begin(), out.kernels.end(),
            [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  const uint64_t span = last - runs.front().begin;
  const uint64_t busy = covered(runs, [](const KernelRun&) { return true; });
  const auto communicates = [&](const KernelRun& r) {
    return class_of(r.name) == KernelClass::communication;
  };
  const uint64_t computing = covered(runs, [&](const KernelRun& r) { return !communicates(r); });
  out.span = 1e-9 * static_cast<double>(span);
  out.gaps = 1e-9 * static_cast<double>(span - busy);
  out.exposed = 1e-9 * static_cast<double>(busy - computing);
  out.hidden = 1e-9 * static_cast<double>(covered(runs, communicates) - (busy - computing));
  return out;
}

std::string speed_of_light(const KernelTimes& t, double step_seconds, double flops,
                           std::optional<double> peak) {
  const auto ms = [](double seconds) { return 1e3 * seconds; };
  std::string light;
  if (peak)
    light = fmt::format("its arithmetic at {:.0f} TFLOP/s takes {:.1f} ms ({:.1f} %); ",
                        *peak / 1e12, ms(flops / *peak), 100 * flops / *peak / step_seconds);
  std::string communication;
  if (t.communication > 0)
    communication =
        fmt::format("communication {:.1f} ({:.1f} exposed), ", ms(t.communication), ms(t.exposed));
  return fmt::format(
      "Speed of light: a step took {:.1f} ms; {}GEMMs {:.1f}, attention {:.1f}, memory-bound "
      "kernels {:.1f}, copies {:.1f}, {}gaps {:.1f} ms",
      ms(step_seconds), light, ms(t.gemms), ms(t.attention), ms(t.memory_bound), ms(t.copies),
      communication, ms(t.gaps));
}

std::string kernel_table(const KernelTimes& t) {
  std::string out = "kernel,launches,us\n";
  for (const KernelTimes::Kernel& k : t.kernels)
    out += fmt::format("\"{}\",{},{:.1f}\n", k.name, k.launches, 1e6 * k.seconds);
  return out;
}

#ifndef NEREUS_CUDA
bool KernelRecorder::start(Stream&) { return false; }
std::vector<KernelRun> KernelRecorder::stop(Stream&) { return {}; }
#endif

}  // namespace nereus
