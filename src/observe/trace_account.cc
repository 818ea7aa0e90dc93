#include "observe/trace_account.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <tuple>

#include "base/check.h"
#include "observe/chrome_trace.h"

namespace nereus {
namespace {

using Json = nlohmann::json;

// Of ops and collectives of the host, by their names in a trace.
KernelClass op_class(const std::string& name) {
  const auto starts = [&](const char* with) { return name.starts_with(with); };
  if (starts("matmul") || starts("grouped_")) return KernelClass::gemm;
  if (starts("attention_")) return KernelClass::attention;
  for (const char* collective :
       {"all_", "reduce_scatter", "broadcast", "send", "recv", "barrier", "peer_", "arrivals"})
    if (starts(collective)) return KernelClass::communication;
  return KernelClass::memory_bound;
}

// A number, or one written as a text.
uint64_t nanoseconds(const Json& microseconds) {
  double us = 0;
  if (microseconds.is_string()) {
    const auto& text = microseconds.get_ref<const std::string&>();
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, us);
    if (error != std::errc() || rest != end)
      throw std::invalid_argument("a time is \"" + text.substr(0, 40) + "\", which is no number");
  } else {
    us = microseconds.get<double>();
  }
  if (!(us >= 0 && us < 1e15))
    throw std::runtime_error("a time or duration of " + microseconds.dump() + " us");
  return static_cast<uint64_t>(us * 1000 + 0.5);
}

// What is gathered while a file is read an event at a time: a large trace is not kept as JSON.
class Reader {
 public:
  explicit Reader(const std::string& path) { account_.path = path; }

  TraceAccount read() {
    const std::string text = read_trace_text(account_.path);
    try {
      Json rest = Json::parse(text, [this](int depth, Json::parse_event_t event, Json& value) {
        const bool ends = event == Json::parse_event_t::object_end;
        if (!ends || !value.contains("ph")) return true;
        if (depth > 2) return true;
        take(value);
        return false;
      });
      if (rest.is_object() && rest.contains("otherData")) facts(rest["otherData"]);
    } catch (const std::exception& e) {
      NEREUS_FAIL(kConfig, "{}: no trace: {}", account_.path, e.what());
    }
    return finish();
  }

 private:
  struct HostRange {
    KernelRun run;
    double bytes;
    int64_t lane;
  };

  void take(const Json& e) {
    if (e.value("ph", "") != "X" || !e.contains("ts") || !e.contains("dur")) return;
    const std::string category = e.value("cat", "");
    std::string name = e.value("name", "");
    KernelRun run{.name = name, .begin = nanoseconds(e["ts"])};
    run.end = run.begin + nanoseconds(e["dur"]);
    const Json args = e.value("args", Json::object());
    if (category == "kernel" || category == "gpu_memcpy" || category == "gpu_memset") {
      if (category != "kernel") run.name = category == "gpu_memcpy" ? "copy" : "fill";
      run_.push_back(std::move(run));
      return;
    }
    if (category == "step" || name.starts_with("ProfilerStep#")) ++steps_;
    if (category != "op" && category != "collective") return;
    const double bytes = args.value("bytes", 0.0);
    run.name = name.substr(0, name.find(' '));
    const int64_t pid = e.contains("pid") && e["pid"].is_number() ? e["pid"].get<int64_t>() : 0;
    const int64_t tid = e.contains("tid") && e["tid"].is_number() ? e["tid"].get<int64_t>() : 0;
    host_.push_back({std::move(run), bytes, (pid << 20) + tid});
  }

  void facts(const Json& f) {
    if (f.value("program", "") != "nereus") return;
    account_.device = f.value("device", "");
    account_.layout = f.value("layout", "");
    account_.rank = f.value("rank", 0);
    account_.first_step = f.value("first_step", int64_t{0});
    account_.last_step = f.value("last_step", int64_t{0});
    account_.step_seconds = f.value("step_seconds", 0.0);
    account_.gemm_flops = f.value("gemm_flops", 0.0);
    account_.attention_flops = f.value("attention_flops", 0.0);
    if (f.contains("peak_flops")) account_.peak_flops = f["peak_flops"].get<double>();
    if (f.contains("peak_bandwidth")) account_.peak_bandwidth = f["peak_bandwidth"].get<double>();
    steps_ = account_.last_step - account_.first_step + 1;
  }

  TraceAccount finish() {
    account_.steps = std::max<int64_t>(1, steps_);
    account_.of_gpu = !run_.empty();
    // Ops in no other one; those of GPUs do not count in bytes of what waited for them.
    std::sort(host_.begin(), host_.end(), [](const HostRange& a, const HostRange& b) {
      return std::tuple(a.lane, a.run.begin, b.run.end) <
             std::tuple(b.lane, b.run.begin, a.run.end);
    });
    int64_t lane = -1;
    uint64_t until = 0;
    std::vector<KernelRun> ops;
    for (HostRange& h : host_) {
      if (h.lane != lane) until = 0;
      lane = h.lane;
      if (h.run.begin < until) continue;
      until = h.run.end;
      const KernelClass of = op_class(h.run.name);
      if (of == KernelClass::memory_bound) account_.memory_bytes += h.bytes;
      if (of == KernelClass::communication) account_.communication_bytes += h.bytes;
      ops.push_back(std::move(h.run));
    }
    account_.times = account_.of_gpu ? add_up(std::move(run_)) : add_up(std::move(ops), op_class);
    NEREUS_CHECK(kConfig, account_.times.span > 0,
                 "{}: has no kernels, ops or collectives: it is no trace of a training step",
                 account_.path);
    return std::move(account_);
  }

  TraceAccount account_;
  int64_t steps_ = 0;
  std::vector<KernelRun> run_;
  std::vector<HostRange> host_;
};

// A class of work in a step.
struct Row {
  const char* name;
  const char* key;
  double seconds = 0;
  std::string limit;            // "71.2 % of 989 TFLOP/s"; "": not known
  std::optional<double> share;  // of the limit
};

Row flops_row(const char* name, const char* key, double seconds, double flops,
              const TraceAccount& a) {
  Row row{name, key, seconds, "", std::nullopt};
  if (seconds <= 0 || flops <= 0) return row;
  const double rate = flops / seconds;
  if (a.peak_flops) {
    row.share = rate / *a.peak_flops;
    row.limit = fmt::format("{:.1f} % of {:.0f} TFLOP/s", 100 * *row.share, *a.peak_flops / 1e12);
  } else {
    row.limit = fmt::format("{:.1f} GFLOP/s", rate / 1e9);
  }
  return row;
}

std::array<Row, 8> rows_of(const TraceAccount& a) {
  const auto n = static_cast<double>(a.steps);
  const KernelTimes& t = a.times;
  Row memory{"memory-bound", "memory_bound", t.memory_bound / n, "", std::nullopt};
  const double rate = t.memory_bound > 0 ? a.memory_bytes / t.memory_bound : 0;
  if (rate > 0 && a.peak_bandwidth) {
    memory.share = rate / *a.peak_bandwidth;
    memory.limit =
        fmt::format("{:.1f} % of {:.2f} TB/s", 100 * *memory.share, *a.peak_bandwidth / 1e12);
  } else if (rate > 0) {
    memory.limit = fmt::format("{:.1f} GB/s", rate / 1e9);
  }
  Row communication{"communication", "communication", t.communication / n, "", std::nullopt};
  if (t.communication > 0 && a.communication_bytes > 0)
    communication.limit = fmt::format("{:.1f} GB/s", a.communication_bytes / t.communication / 1e9);
  return {flops_row("GEMM", "gemm", t.gemms / n, a.gemm_flops, a),
          flops_row("attention", "attention", t.attention / n, a.attention_flops, a),
          memory,
          {"copies", "copies", t.copies / n, "", std::nullopt},
          communication,
          {"  exposed", "communication_exposed", t.exposed / n, "", std::nullopt},
          {"  hidden", "communication_hidden", t.hidden / n, "", std::nullopt},
          {"gaps", "gaps", t.gaps / n, "", std::nullopt}};
}

// Of a step, with what the host did before and after the device's work.
double step_of(const TraceAccount& a) {
  return a.step_seconds > 0 ? a.step_seconds : a.times.span / static_cast<double>(a.steps);
}

std::string heading(const TraceAccount& a) {
  std::string steps = "1 step";
  if (a.steps > 1) steps = fmt::format("{} steps", a.steps);
  if (a.first_step > 0)
    steps = a.steps == 1 ? fmt::format("step {}", a.first_step)
                         : fmt::format("steps {} to {}", a.first_step, a.last_step);
  return fmt::format("{}: rank {}, {}{}; {}, {:.2f} ms a step\n", a.path, a.rank,
                     a.device.empty() ? "device not said" : a.device,
                     a.layout.empty() ? "" : ", " + a.layout, steps, 1e3 * step_of(a));
}

std::string shorter(const std::string& name, size_t most) {
  return name.size() <= most ? name : name.substr(0, most - 3) + "...";
}

struct Named {
  const KernelTimes::Kernel* of[2] = {nullptr, nullptr};
  double most = 0;
};

// Those of all traces, longest first.
std::vector<std::pair<std::string, Named>> top_kernels(std::span<const TraceAccount> all, int top) {
  std::map<std::string, Named> by_name;
  for (size_t i = 0; i < all.size(); ++i)
    for (const KernelTimes::Kernel& k : all[i].times.kernels) {
      Named& n = by_name[k.name];
      n.of[i] = &k;
      n.most = std::max(n.most, k.seconds / static_cast<double>(all[i].steps));
    }
  std::vector<std::pair<std::string, Named>> out(by_name.begin(), by_name.end());
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.second.most > b.second.most; });
  if (out.size() > static_cast<size_t>(top)) out.resize(static_cast<size_t>(top));
  return out;
}

double seconds_of(const TraceAccount& a, const KernelTimes::Kernel* k) {
  return k == nullptr ? 0 : k->seconds / static_cast<double>(a.steps);
}

std::string difference(double a, double b) {
  return a > 0 ? fmt::format("{:+9.2f} {:+7.1f} %", 1e3 * (b - a), 100 * (b / a - 1))
               : fmt::format("{:+9.2f}", 1e3 * (b - a));
}

std::string one_text(const TraceAccount& a, int top) {
  std::string out = heading(a);
  out += fmt::format("  {:<16} {:>9} {:>8}  {}\n", "", "ms", "of step", "of its limit");
  for (const Row& r : rows_of(a))
    out += fmt::format("  {:<16} {:>9.2f} {:>6.1f} %  {}\n", r.name, 1e3 * r.seconds,
                       100 * r.seconds / step_of(a), r.limit);
  out += fmt::format("  {:<16} {:>9} {:>8}  {}\n", a.of_gpu ? "kernels" : "ops", "ms", "calls", "");
  for (const auto& [name, k] : top_kernels(std::span(&a, 1), top))
    out += fmt::format("  {:<16} {:>9.2f} {:>8}  {}\n", "", 1e3 * seconds_of(a, k.of[0]),
                       k.of[0]->launches / a.steps, shorter(name, 100));
  return out;
}

std::string two_text(std::span<const TraceAccount> all, int top) {
  const TraceAccount &a = all[0], &b = all[1];
  std::string out = "A  " + heading(a) + "B  " + heading(b);
  out += fmt::format("  {:<16} {:>9} {:>9} {:>9}\n", "ms a step", "A", "B", "B - A");
  const auto line = [&](const char* name, double x, double y, const std::string& more) {
    out += fmt::format("  {:<16} {:>9.2f} {:>9.2f} {}{}\n", name, 1e3 * x, 1e3 * y,
                       difference(x, y), more.empty() ? "" : "  " + more);
  };
  line("step", step_of(a), step_of(b), "");
  const auto of_a = rows_of(a), of_b = rows_of(b);
  for (size_t i = 0; i < of_a.size(); ++i) {
    std::string limits;
    if (!of_a[i].limit.empty() || !of_b[i].limit.empty())
      limits = fmt::format("{} | {}", of_a[i].limit.empty() ? "-" : of_a[i].limit,
                           of_b[i].limit.empty() ? "-" : of_b[i].limit);
    line(of_a[i].name, of_a[i].seconds, of_b[i].seconds, limits);
  }
  for (const auto& [name, k] : top_kernels(all, top))
    line("", seconds_of(a, k.of[0]), seconds_of(b, k.of[1]), shorter(name, 90));
  return out;
}

}  // namespace

TraceAccount account_of_trace(const std::string& path) { return Reader(path).read(); }

std::string account_text(std::span<const TraceAccount> all, int top) {
  return all.size() == 1 ? one_text(all[0], top) : two_text(all, top);
}

std::string account_json(std::span<const TraceAccount> all, int top) {
  nlohmann::ordered_json out = {{"traces", nlohmann::ordered_json::array()}};
  for (const TraceAccount& a : all) {
    nlohmann::ordered_json one = {{"file", a.path},
                                  {"rank", a.rank},
                                  {"device", a.device},
                                  {"layout", a.layout},
                                  {"gpu", a.of_gpu},
                                  {"first_step", a.first_step},
                                  {"steps", a.steps},
                                  {"step_seconds", step_of(a)},
                                  {"classes", nlohmann::ordered_json::object()},
                                  {"kernels", nlohmann::ordered_json::array()}};
    for (const Row& r : rows_of(a)) {
      nlohmann::ordered_json row = {{"seconds", r.seconds}, {"share", r.seconds / step_of(a)}};
      if (r.share) row["share_of_limit"] = *r.share;
      one["classes"][r.key] = row;
    }
    for (const auto& [name, k] : top_kernels(std::span(&a, 1), top))
      one["kernels"].push_back({{"name", name},
                                {"calls", k.of[0]->launches / a.steps},
                                {"seconds", seconds_of(a, k.of[0])}});
    out["traces"].push_back(std::move(one));
  }
  return out.dump(2) + "\n";
}

}  // namespace nereus
