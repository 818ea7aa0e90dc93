#include "observe/sink.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/log.h"

namespace nereus {
namespace {

// JSON has no NaN and no infinity.
nlohmann::json number(double x) {
  return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr);
}

}  // namespace

void ConsoleSink::step(const StepMetrics& m) { log::info("{}", step_line(m, color_)); }

void ConsoleSink::validation(const ValidationMetrics& m) {
  log::info("validate step: {:2}  loss: {:7.4f}  memory: {:5.2f}GiB({:.2f}%)  tps: {}", m.step,
            m.loss, m.memory_gib, m.memory_percent,
            with_thousands(std::nearbyint(m.tokens_per_second), 0));
}

void ConsoleSink::profile(const KernelProfile& p) {
  log::info("{}", speed_of_light(p.times, p.step_seconds, p.flops, p.peak));
}

JsonlSink::JsonlSink(const std::string& path) : path_(path), out_(path, std::ios::app) {
  NEREUS_CHECK(kIo, out_.good(), "cannot write {}: {}", path, std::strerror(errno));
}

void JsonlSink::line(const std::string& text) {
  out_ << text << '\n' << std::flush;
  NEREUS_CHECK(kIo, out_.good(), "cannot write {}: {}", path_, std::strerror(errno));
}

void JsonlSink::step(const StepMetrics& m) {
  nlohmann::ordered_json json;
  for (const MetricField& f : step_fields()) {
    const MetricField::Value value = f.value(m);
    if (const auto* n = std::get_if<int64_t>(&value)) {
      json[f.name] = *n;
    } else if (const auto* x = std::get_if<double>(&value)) {
      json[f.name] = number(*x);
    } else {
      json[f.name] = nullptr;
    }
  }
  line(json.dump());
}

void JsonlSink::validation(const ValidationMetrics& m) {
  nlohmann::ordered_json json;
  json["step"] = m.step;
  json["validation_loss"] = number(m.loss);
  line(json.dump());
}

void KernelFilesSink::profile(const KernelProfile& p) {
  const auto write = [this](const char* name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    const std::error_code error = replace_file(path, text);
    NEREUS_CHECK(kIo, !error, "cannot write {}: {}", path, error.message());
  };
  write("kernels.csv", kernel_table(p.times));
  write("kernels_trace.json", kernel_trace(p.runs));
}

}  // namespace nereus
