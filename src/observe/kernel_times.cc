#include "observe/kernel_times.h"

#include "base/check.h"
#include "base/log.h"

namespace nereus {

std::string speed_of_light(const KernelTimes& t, double step_seconds, double flops,
                           std::optional<double> peak) {
  const auto ms = [](double seconds) { return 1e3 * seconds; };
  std::string light;
  if (peak)
    light = fmt::format("its arithmetic at {:.0f} TFLOP/s takes {:.1f} ms ({:.1f} %); ",
                        *peak / 1e12, ms(flops / *peak), 100 * flops / *peak / step_seconds);
  return fmt::format(
      "Speed of light: a step took {:.1f} ms; {}products {:.1f}, attention {:.1f}, memory-bound "
      "kernels {:.1f}, copies {:.1f}, gaps {:.1f} ms",
      ms(step_seconds), light, ms(t.products), ms(t.attention), ms(t.memory_bound), ms(t.copies),
      ms(t.gaps));
}

std::string kernel_table(const KernelTimes& t) {
  std::string out = "kernel,launches,us\n";
  for (const KernelTimes::Kernel& k : t.kernels)
    out += fmt::format("\"{}\",{},{:.1f}\n", k.name, k.launches, 1e6 * k.seconds);
  return out;
}

#ifndef NEREUS_CUDA
bool KernelRecorder::start(Stream&) { return false; }
KernelTimes KernelRecorder::stop(Stream&) { return {}; }
#endif

}  // namespace nereus
