#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/text.h"
#include "recipe/jobs.h"

namespace nereus::recipe {
namespace {

std::string short_time(std::string time) {
  std::replace(time.begin(), time.end(), 'T', ' ');
  return time.substr(0, 16);
}

// Three significant digits at least, two of them behind the point: 0.0504, 2.50, 258.20.
std::string number(const std::optional<double>& x) {
  if (!x) return "";
  int digits = 2;
  for (double limit = 1; digits < 6 && *x > 0 && *x < limit; limit /= 10) ++digits;
  return fmt::format("{:.{}f}", *x, digits);
}

std::string workload_of(const JobRecord& j) {
  const std::string name = j.workload.empty() ? j.model : j.workload;
  return name.empty() || j.size.empty() ? name + j.size : name + "_" + j.size;
}

std::string state_of(const JobRecord& j, const LiveJob& live) {
  if (j.state.starts_with("CANCELLED")) return "CANCELLED";
  return live.reason.empty() ? j.state : fmt::format("{} ({})", j.state, live.reason);
}

std::string step_of(const LiveJob& live) {
  if (live.step == 0) return "";
  return live.steps > 0 ? fmt::format("{}/{}", live.step, live.steps) : std::to_string(live.step);
}

const LiveJob& live_of(const LiveJobs& live, int64_t id) {
  static const LiveJob none;
  const auto it = live.find(id);
  return it == live.end() ? none : it->second;
}

// Of the recipe's model FLOPs utilization: its README's table, in TFLOPS.
std::optional<double> recipe_peak(const std::string& gpu_type, const std::string& dtype) {
  struct Row {
    const char* gpu;
    double bf16, fp8;
  };
  constexpr std::array<Row, 4> kPeaks = {
      {{"gb200", 2450, 4900}, {"b200", 2250, 4500}, {"h100", 989, 1979}, {"h200", 989, 1979}}};
  for (const Row& row : kPeaks)
    if (lower(gpu_type) == row.gpu) return dtype == "fp8" ? row.fp8 : row.bf16;
  return std::nullopt;
}

// "12.1 % of 2450 TFLOPS (gb200, bf16: the recipe's table)"
std::string utilization(const JobRecord& j, const std::string& gpu_type) {
  const std::optional<double> peak = recipe_peak(gpu_type, j.dtype);
  if (!peak || !j.tflops_per_gpu || j.speed_status == "invalid_grad_norm") return "";
  return fmt::format("{:.1f} % of {:.0f} TFLOPS ({}, {}: the recipe's table)",
                     100 * *j.tflops_per_gpu / *peak, *peak, lower(gpu_type), j.dtype);
}

std::string speed(const JobRecord& j, const std::optional<double>& x) {
  return j.speed_status == "invalid_grad_norm" ? "Invalid" : number(x);
}

}  // namespace

std::string table(const std::vector<JobRecord>& jobs, const LiveJobs& live,
                  const std::map<int64_t, std::string>& goodput) {
  if (jobs.empty())
    return "No jobs are recorded. `nereus jobs rebuild` records the runs that are there.";
  std::vector<std::vector<std::string>> rows = {{"Workload", "DType", "Scale", "Job ID", "Profile",
                                                 "Submit Time", "Slurm Status", "Elapsed", "Step",
                                                 "s/iter", "TFLOPS/GPU", "Tokens/s/GPU"}};
  for (const JobRecord& j : jobs)
    rows.push_back({workload_of(j), j.dtype, j.scale ? std::to_string(j.scale) : "",
                    std::to_string(j.id), j.profile ? "Yes" : "-", short_time(j.submitted),
                    state_of(j, live_of(live, j.id)), j.elapsed, step_of(live_of(live, j.id)),
                    speed(j, j.step_seconds), speed(j, j.tflops_per_gpu),
                    speed(j, j.tokens_per_second_per_gpu)});
  if (!goodput.empty()) {
    rows[0].emplace_back("Goodput");
    for (size_t i = 0; i < jobs.size(); ++i) {
      const auto known = goodput.find(jobs[i].id);
      rows[i + 1].push_back(known == goodput.end() ? "" : known->second);
    }
  }
  const size_t cells = rows[0].size();
  std::vector<size_t> width(cells);
  for (const auto& row : rows)
    for (size_t i = 0; i < cells; ++i) width[i] = std::max(width[i], row[i].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < cells; ++i) {
      const bool right = i == 2 || i == 3 || i > 7;
      line += right ? fmt::format("{:>{}}  ", row[i], width[i])
                    : fmt::format("{:<{}}  ", row[i], width[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  out.pop_back();
  return out;
}

std::string details(const JobRecord& j, const LiveJob& live, const std::string& gpu_type,
                    const std::string& goodput) {
  const std::string status =
      j.speed_status == "invalid_grad_norm" ? "invalid: grad_norm=nan" : j.speed_status;
  std::string out;
  for (const auto& [label, value] :
       {std::pair<const char*, std::string>{"Job ID", std::to_string(j.id)},
        {"Launcher", j.launcher_type},
        {"Workload", j.workload},
        {"Model", j.model + "_" + j.size},
        {"DType", j.dtype},
        {"Scale", j.scale ? std::to_string(j.scale) : ""},
        {"Profile", j.profile ? "Yes" : "-"},
        {"Proxy", j.proxy ? "Yes" : "-"},
        {"Status", j.state},
        {"Reason", live.reason},
        {"Elapsed", j.elapsed},
        {"Step", step_of(live)},
        {"Perf Parse", status},
        {"s/iter", number(j.step_seconds)},
        {"TFLOPS/GPU", number(j.tflops_per_gpu)},
        {"MFU", utilization(j, gpu_type)},
        {"Tokens/s/GPU", number(j.tokens_per_second_per_gpu)},
        {"Submit Time", short_time(j.submitted)},
        {"Node List", j.nodes},
        {"Exit Code", j.exit_code},
        {"Log Dir", j.log_folder}})
    out += fmt::format("{:<12} : {}\n", label, value);
  if (!goodput.empty()) out += fmt::format("{:<12} : {}\n", "Goodput", goodput);
  out.pop_back();
  return out;
}

}  // namespace nereus::recipe
