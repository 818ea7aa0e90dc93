#include "recipe/run_log.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/check.h"
#include "base/files.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFirst = 35, kLast = 44;  // steps that count

// What the ranks say of a step.
struct Sample {
  double seconds = 0;  // when the first of them said it
  double tps = 0, tflops = 0;
  int lines = 0;
};

std::string without_colors(const std::string& line) {
  if (line.find('\033') == std::string::npos) return line;
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\033') {
      out += line[i];
      continue;
    }
    const size_t end = line.find('m', i);
    if (end == std::string::npos) break;
    i = end;
  }
  return out;
}

// The number after "name:", which may have commas; NaN when it is not there.
double field(const std::string& line, const char* name, size_t from) {
  const size_t at = line.find(name, from);
  if (at == std::string::npos) return std::nan("");
  std::string digits;
  for (size_t i = at + std::string(name).size(); i < line.size(); ++i) {
    if (line[i] == ' ' && digits.empty()) continue;
    if (line[i] == ',') continue;
    if (line[i] == ' ') break;
    digits += line[i];
  }
  return std::strtod(digits.c_str(), nullptr);  // "nan" and "inf" too
}

// Of "2025-10-02 20:23:53,470"; 0 when the line has none.
double time_of(const std::string& line) {
  const size_t at = line.find("[titan] ");
  if (at == std::string::npos) return 0;
  std::tm t{};
  int milliseconds = 0;
  if (std::sscanf(line.c_str() + at + 8, "%d-%d-%d %d:%d:%d,%d", &t.tm_year, &t.tm_mon, &t.tm_mday,
                  &t.tm_hour, &t.tm_min, &t.tm_sec, &milliseconds) != 7)
    return 0;
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  return static_cast<double>(timegm(&t)) + 1e-3 * milliseconds;
}

// Means over steps `first` to `last`, each of which has the values of the line that covers it.
void average(const std::map<int64_t, Sample>& samples, int64_t first, int64_t last, RunSpeed& out) {
  struct Part {
    double steps, seconds, tps, tflops;  // seconds: of a step
  };
  std::vector<Part> parts;
  double steps = 0, seconds = 0;
  bool timed = true;
  for (auto it = samples.begin(); it != samples.end(); ++it) {
    const auto before = it == samples.begin() ? it : std::prev(it);
    const int64_t done = it == samples.begin() ? 0 : before->first;
    const int64_t from = std::max(first, done + 1), to = std::min(last, it->first);
    if (from > to) continue;
    const Sample& s = it->second;
    parts.push_back({static_cast<double>(to - from + 1),
                     (s.seconds - before->second.seconds) / static_cast<double>(it->first - done),
                     s.tps / s.lines, s.tflops / s.lines});
    timed = timed && it != before && s.seconds > 0 && before->second.seconds > 0;
    steps += parts.back().steps;
    seconds += parts.back().steps * parts.back().seconds;
  }
  if (parts.empty()) return;
  if (timed) out.step_seconds = seconds / steps;
  // Without times of its own a step took what its rate says: all have the same tokens.
  const auto share = [&](const Part& p) {
    return p.steps * (timed && seconds > 0 ? p.seconds : p.tps > 0 ? 1 / p.tps : 1);
  };
  double all = 0, tps = 0, tflops = 0;
  for (const Part& p : parts) {
    all += share(p);
    tps += share(p) * p.tps;
    tflops += share(p) * p.tflops;
  }
  out.tokens_per_second_per_gpu = tps / all;
  out.tflops_per_gpu = tflops / all;
}

// The whole number that `text` is; -1 for others.
int64_t whole_number(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
    return -1;
  return std::strtoll(text.c_str(), nullptr, 10);
}

struct LogName {
  int64_t job = 0, restart = 0;
};
std::optional<LogName> log_name(const std::string& name) {
  if (!name.starts_with("log-") || !name.ends_with(".out")) return std::nullopt;
  const size_t end = name.size() - 4, last = name.rfind('_');
  if (last == std::string::npos || last < 5) return std::nullopt;
  const size_t first = name.rfind('_', last - 1);
  if (first == std::string::npos) return std::nullopt;
  const int64_t job = whole_number(name.substr(first + 1, last - first - 1));
  const int64_t restart = whole_number(name.substr(last + 1, end - last - 1));
  if (job <= 0 || restart < 0) return std::nullopt;
  return LogName{job, restart};
}

}  // namespace

std::vector<RunLog> find_logs(const std::string& folder, int64_t job) {
  std::error_code error;
  NEREUS_CHECK(kConfig, fs::is_directory(folder, error), "Log directory not found: {}", folder);
  std::vector<RunLog> out;
  for (const auto& entry : entries_of(folder, error)) {
    const std::optional<LogName> name = log_name(entry.path().filename().string());
    if (!name || name->job != job) continue;
    const std::string errors = fs::path(entry.path()).replace_extension(".err").string();
    out.push_back({.path = entry.path().string(),
                   .errors = is_there(errors) ? errors : "",
                   .restart = name->restart});
  }
  std::sort(out.begin(), out.end(),
            [](const RunLog& a, const RunLog& b) { return a.restart < b.restart; });
  const std::string slurm = fmt::format("{}/slurm-{}.out", folder, job);
  if (out.empty() && fs::is_regular_file(slurm, error)) out.push_back({.path = slurm});
  return out;
}

RunSpeed parse_log(std::istream& log) {
  std::map<int64_t, Sample> samples;
  RunSpeed out;
  bool invalid = false;
  std::string raw;
  while (std::getline(log, raw)) {
    const std::string line = without_colors(raw);
    if (line.find("Training completed") != std::string::npos) out.finished = true;
    if (const size_t total = line.find("total steps "); total != std::string::npos)
      out.steps = std::strtoll(line.c_str() + total + 12, nullptr, 10);
    const size_t at = line.find("step: ");
    if (at == std::string::npos || (at >= 9 && line.compare(at - 9, 9, "validate ") == 0)) continue;
    const double tps = field(line, "tps: ", at), tflops = field(line, "tflops: ", at);
    const int64_t step = std::strtoll(line.c_str() + at + 6, nullptr, 10);
    if (step < 1 || !std::isfinite(tps) || !std::isfinite(tflops)) continue;
    invalid = invalid || !std::isfinite(field(line, "grad_norm: ", at)) ||
              !std::isfinite(field(line, "loss: ", at));
    Sample& sample = samples[step];
    if (sample.lines++ == 0) sample.seconds = time_of(line);
    sample.tps += tps;
    sample.tflops += tflops;
  }
  if (samples.empty()) {
    out.status = "no_data";
    return out;
  }
  out.last_step = samples.rbegin()->first;
  if (invalid) {
    out.status = "invalid_grad_norm";
  } else if (!out.finished) {
    out.status = "incomplete";
  } else if (out.last_step >= kLast) {
    out.status = "success";
    average(samples, kFirst, kLast, out);
  } else {
    out.status = "short";
    average(samples, samples.begin()->first + 1, out.last_step, out);
  }
  return out;
}

RunSpeed parse_log(const std::string& folder, int64_t job) {
  std::error_code error;
  std::vector<RunLog> logs;
  if (fs::is_directory(folder, error)) logs = find_logs(folder, job);
  if (logs.empty() || !logs.back().restart) return {.status = "no_log"};
  std::ifstream log(logs.back().path);
  if (!log) return {.status = "no_log"};
  return parse_log(log);
}

int64_t job_of_log(const std::string& name) {
  const std::optional<LogName> found = log_name(name);
  return found ? found->job : 0;
}

int64_t job_of_config(const std::string& name) {
  constexpr std::string_view kBegin = "llmb-config_", kEnd = ".yaml";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd) ||
      name.size() < kBegin.size() + kEnd.size())
    return 0;
  return std::max<int64_t>(
      0, whole_number(name.substr(kBegin.size(), name.size() - kBegin.size() - kEnd.size())));
}

std::string tail(const std::string& path, int64_t lines) {
  NEREUS_CHECK(kConfig, lines >= 1, "--tail must be at least 1.");
  std::ifstream in(path);
  NEREUS_CHECK(kIo, in.good(), "Unable to read log file {}.", path);
  std::deque<std::string> last;
  std::string line;
  while (std::getline(in, line)) {
    last.push_back(line);
    if (static_cast<int64_t>(last.size()) > lines) last.pop_front();
  }
  return fmt::to_string(fmt::join(last, "\n"));
}

}  // namespace nereus::recipe
