#include "observe/sink.h"

#include <cmath>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/log.h"

namespace nereus {
void ConsoleSink::step(const StepMetrics& m) { log::info("{}", step_line(m, color_)); }

void ConsoleSink::validation(const ValidationMetrics& m) {
  log::info("validate step: {:2}  loss: {:7.4f}  memory: {:5.2f}GiB({:.2f}%)  tps: {}", m.step,
            m.loss, m.memory_gib, m.memory_percent,
            with_thousands(std::nearbyint(m.tokens_per_second), 0));
}

void ConsoleSink::profile(const KernelProfile& p) {
  log::info("{}", speed_of_light(p.times, p.step_seconds, p.flops, p.peak));
}

void KernelFilesSink::profile(const KernelProfile& p) {
  const auto write = [this](const char* name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    const std::error_code error = replace_file(path, text);
    NEREUS_CHECK(kIo, !error, "cannot write {}: {}", path, error.message());
  };
  write("kernels.csv", kernel_table(p.times));
  write("kernels_trace.json", p.trace);
}

}  // namespace nereus
