#include "observe/metrics.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace nereus {
namespace {

struct Colors {
  const char *red, *green, *orange, *turquoise, *blue, *cyan, *magenta, *reset;
};
constexpr Colors kAnsi = {
    "\033[31m", "\033[32m", "\033[38;2;180;60;0m", "\033[38;2;54;234;195m", "\033[34m", "\033[36m",
    "\033[35m", "\033[39m"};
constexpr Colors kPlain = {"", "", "", "", "", "", "", ""};

// JSON has no NaN and no infinity.
nlohmann::json number(double x) {
  return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr);
}

}  // namespace

std::string with_thousands(double value, int decimals) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  const size_t first = text[0] == '-' ? 1 : 0;
  size_t end = text.find('.');
  if (end == std::string::npos) end = text.size();
  for (size_t i = end; i > first + 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string step_line(const StepMetrics& m, bool color) {
  const Colors& c = color ? kAnsi : kPlain;
  const std::string mfu = m.mfu_percent ? fmt::format("{:.2f}%", *m.mfu_percent) : "N/A";
  return fmt::format(
      "{}step: {:2}  {}loss: {:7.4f}  {}grad_norm: {:7.4f}  {}memory: {:5.2f}GiB({:.2f}%)  "
      "{}tps: {}  {}tflops: {}  {}mfu: {}{}",
      c.red, m.step, c.green, m.loss, c.orange, m.grad_norm, c.turquoise, m.memory_gib,
      m.memory_percent, c.blue, with_thousands(std::nearbyint(m.tokens_per_second), 0), c.cyan,
      with_thousands(m.tflops, 2), c.magenta, mfu, c.reset);
}

MetricsFile::MetricsFile(const std::string& path) : path_(path), out_(path, std::ios::app) {
  NEREUS_CHECK(kIo, out_.good(), "cannot write {}: {}", path, std::strerror(errno));
}

void MetricsFile::line(const std::string& text) {
  out_ << text << '\n' << std::flush;
  NEREUS_CHECK(kIo, out_.good(), "cannot write {}: {}", path_, std::strerror(errno));
}

void MetricsFile::write(const StepMetrics& m) {
  nlohmann::ordered_json json;
  json["step"] = m.step;
  json["loss"] = number(m.loss);
  json["grad_norm"] = number(m.grad_norm);
  json["lr"] = number(m.lr);
  json["tps"] = number(m.tokens_per_second);
  json["tflops"] = number(m.tflops);
  json["mfu"] = m.mfu_percent ? number(*m.mfu_percent) : nlohmann::json(nullptr);
  json["memory_gib"] = number(m.memory_gib);
  json["memory_percent"] = number(m.memory_percent);
  json["step_seconds"] = number(m.step_seconds);
  json["data_seconds"] = number(m.data_seconds);
  json["tokens_seen"] = m.tokens_seen;
  json["expert_overflows"] = m.expert_overflows;
  json["expert_load_max_over_mean"] = number(m.expert_load_max_over_mean);
  line(json.dump());
}

void MetricsFile::write_validation(int64_t step, double loss) {
  nlohmann::ordered_json json;
  json["step"] = step;
  json["validation_loss"] = number(loss);
  line(json.dump());
}

}  // namespace nereus
