#include "observe/wandb_sink.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "base/check.h"
#include "base/files.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using protozero::pbf_reader;
using protozero::pbf_writer;

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
std::string number(double x) { return fmt::format("{}", x); }

std::string local_time(double time) {
  const auto seconds = static_cast<std::time_t>(time);
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y%m%d_%H%M%S", &parts)};
}

void add_timestamp(pbf_writer& to, protozero::pbf_tag_type tag, double time) {
  pbf_writer stamp(to, tag);
  const double seconds = std::floor(time);
  stamp.add_int64(1, static_cast<int64_t>(seconds));
  stamp.add_int32(2, static_cast<int32_t>((time - seconds) * 1e9));
}

// Rows of the run in the earlier starts' files: the highest _step and one.
int64_t rows_so_far(const fs::path& folder, const std::string& id) {
  int64_t rows = 0;
  std::error_code error;
  for (const auto& entry : entries_of(folder, error)) {
    if (!entry.path().filename().string().ends_with("-" + id)) continue;
    visit_wandb_records(entry.path() / ("run-" + id + ".wandb"), [&](const std::string& text) {
      try {
        pbf_reader record(text);
        if (!record.next(2)) return;
        pbf_reader history = record.get_message();
        if (!history.next(2)) return;
        pbf_reader step = history.get_message();
        rows = std::max(rows, step.next(1) ? step.get_int64() + 1 : int64_t{1});
      } catch (const protozero::exception&) {
        // No record of ours.
      }
    });
  }
  return rows;
}

}  // namespace

WandbSink::WandbSink(const WandbRun& run) : id_(run.id), start_(run.time) {
  const fs::path all = run.folder;
  rows_ = rows_so_far(all, id_);
  double time = run.time;
  do {
    folder_ = all / fmt::format("offline-run-{}-{}", local_time(time), id_);
    time += 1;
  } while (is_there(folder_));
  std::error_code error;
  for (const char* inner : {"files", "logs"}) {
    fs::create_directories(fs::path(folder_) / inner, error);
    NEREUS_CHECK(kIo, !error, "cannot write {}: {}", folder_, error.message());
  }
  file_ = std::make_unique<WandbFile>(fmt::format("{}/run-{}.wandb", folder_, id_));
  record([](pbf_writer& r) {
    pbf_writer header(r, 21);
    pbf_writer version(header, 1);
    version.add_string(1, "0.31.0");
    version.add_string(2, "0.70.0");
  });
  add_run(run);
  record([](pbf_writer& r) {  // define_metric("step")
    pbf_writer metric(r, 12);
    metric.add_string(1, "step");
    pbf_writer options(metric, 6);
    options.add_bool(3, true);
  });
  record([](pbf_writer& r) {  // define_metric("*", step_metric="step")
    pbf_writer metric(r, 12);
    metric.add_string(2, "*");
    metric.add_string(4, "step");
    pbf_writer options(metric, 6);
    options.add_bool(1, true);
    options.add_bool(3, true);
  });
  file_->flush();
}

void WandbSink::record(const std::function<void(pbf_writer&)>& fill) {
  record_.clear();
  pbf_writer writer(record_);
  writer.add_int64(1, ++records_);
  fill(writer);
  {
    pbf_writer info(writer, 200);
    info.add_string(1, id_);
  }
  file_->add(record_);
}

void WandbSink::add_run(const WandbRun& run) {
  record([&](pbf_writer& r) {
    pbf_writer message(r, 17);
    message.add_string(1, run.id);
    if (!run.team.empty()) message.add_string(2, run.team);
    message.add_string(3, run.project);
    {
      const auto sections = nlohmann::ordered_json::parse(run.config);
      pbf_writer config(message, 4);
      for (const auto& [section, values] : sections.items()) {
        pbf_writer item(config, 1);
        item.add_string(1, section);
        item.add_string(16, values.dump());
      }
    }
    if (!run.name.empty()) message.add_string(8, run.name);
    message.add_string(13, run.host);
    add_timestamp(message, 17, run.time);
    message.add_bool(24, true);  // there may be a start of it already
  });
}

// A row of the history, and the same as the run's last values.
void WandbSink::row(int64_t step, double time, Fields fields) {
  fields.emplace_back("step", std::to_string(step));
  fields.emplace_back("_step", std::to_string(rows_));
  fields.emplace_back("_timestamp", number(time));
  fields.emplace_back("_runtime", number(time - start_));
  const auto add = [&](pbf_writer& to) {
    for (const auto& [name, json] : fields) {
      pbf_writer item(to, 1);
      const size_t part = name.find('\n');  // a histogram's: "name\nbins"
      item.add_string(2, name.data(), std::min(part, name.size()));
      if (part != std::string::npos) item.add_string(2, name.data() + part + 1);
      item.add_string(16, json);
    }
  };
  record([&](pbf_writer& r) {
    pbf_writer summary(r, 3);
    add(summary);
  });
  record([&](pbf_writer& r) {
    pbf_writer history(r, 2);
    add(history);
    pbf_writer number_of_row(history, 2);
    number_of_row.add_int64(1, rows_);
  });
  ++rows_;
  file_->flush();
}

void WandbSink::step(const StepMetrics& m) {
  Fields fields;
  for (const MetricField& f : step_fields()) {
    if (f.tag == nullptr) continue;
    const MetricField::Value value = f.value(m);
    if (const auto* n = std::get_if<int64_t>(&value)) {
      fields.emplace_back(f.tag, std::to_string(*n));
    } else if (const auto* x = std::get_if<double>(&value); x != nullptr && std::isfinite(*x)) {
      fields.emplace_back(f.tag, number(*x));
    }
  }
  for (const LayerNorm& n : m.layer_norms)
    fields.emplace_back(fmt::format("grad_norm_by_layer/{}(norm)", n.name), number(n.norm));
  row(m.step, m.time, std::move(fields));
}

void WandbSink::experts(int64_t step, double time, const ExpertTable& table) {
  constexpr size_t kBuckets = 30;
  Fields fields;
  for (size_t i = 0; i < table.layers.size(); ++i) {
    const std::vector<double> loads = relative_loads(table.counts_of(i));
    const double most = std::max(*std::max_element(loads.begin(), loads.end()), 1e-9);
    std::vector<int> values(kBuckets);
    std::vector<double> bins;
    for (size_t b = 0; b <= kBuckets; ++b) bins.push_back(most * static_cast<double>(b) / kBuckets);
    for (const double load : loads)
      ++values[std::min(static_cast<size_t>(load / most * kBuckets), kBuckets - 1)];
    const std::string name = fmt::format("expert_load/layer_{}(ratio)", table.layers[i]);
    fields.emplace_back(name + "\n_type", "\"histogram\"");
    fields.emplace_back(name + "\nbins", nlohmann::json(bins).dump());
    fields.emplace_back(name + "\nvalues", nlohmann::json(values).dump());
  }
  for (const NamedFigure& f : layer_scalars(table)) fields.emplace_back(f.name, number(f.value));
  row(step, time, std::move(fields));
}

void WandbSink::validation(const ValidationMetrics& m) {
  Fields fields;
  for (const ValidationField& f : validation_fields())
    if (const double x = f.value(m); std::isfinite(x)) fields.emplace_back(f.tag, number(x));
  row(m.step, m.time, std::move(fields));
}

void WandbSink::log_line(const LogLine& line) {
  if (ended_) return;  // what follows the exit is not read
  record([&](pbf_writer& r) {
    pbf_writer output(r, 13);
    output.add_enum(1, line.warning ? 0 : 1);  // STDERR, STDOUT
    add_timestamp(output, 2, line.time);
    // parse(quoted()) replaces bytes that are not UTF-8, which a text of protobuf has to be.
    const std::string text = nlohmann::json::parse(quoted(line.text)).get<std::string>();
    output.add_string(3, text + "\n");
  });
  file_->flush();
}

void WandbSink::event(const RunEvent& e) {
  int64_t code = 0;
  switch (e.kind) {
    case EventKind::end:
      for (const auto& [name, value] : e.facts)
        if (std::string_view(name) == "exit_code") code = std::get<int64_t>(value);
      break;
    case EventKind::nonfinite:
    case EventKind::error:
      code = 1;
      break;
    default:
      return;
  }
  ended_ = true;
  record([&](pbf_writer& r) {
    pbf_writer ending(r, 18);
    ending.add_int32(1, static_cast<int32_t>(code));
    ending.add_int32(2, static_cast<int32_t>(e.time - start_));
  });
  file_->flush();
}

namespace {

// Has ~/.netrc (or NETRC's file) a line for the host?
bool in_netrc(const std::string& path, const std::string& host) {
  std::ifstream in(path);
  for (std::string word, before; in >> word; before = std::move(word))
    if (before == "machine" && word == host) return true;
  return false;
}

std::string host_of(std::string url) {
  if (const size_t at = url.find("://"); at != std::string::npos) url.erase(0, at + 3);
  return url.substr(0, url.find_first_of("/:"));
}

}  // namespace

WandbSettings wandb_settings(const std::function<std::string(const char*)>& variable) {
  const std::string mode = variable("WANDB_MODE");
  NEREUS_CHECK(kConfig,
               mode.empty() || mode == "online" || mode == "offline" || mode == "disabled" ||
                   mode == "dryrun",
               "WANDB_MODE = {}: W&B's modes are online, offline and disabled. Set one of them, or "
               "metrics.enable_wandb = false.",
               mode);
  const auto or_else = [](std::string text, const char* other) {
    return text.empty() ? std::string(other) : std::move(text);
  };
  const std::string netrc = or_else(variable("NETRC"), (variable("HOME") + "/.netrc").c_str());
  const std::string host = host_of(or_else(variable("WANDB_BASE_URL"), "api.wandb.ai"));
  return {.disabled = mode == "disabled",
          .online = mode.empty() || mode == "online",
          .project = or_else(variable("WANDB_PROJECT"), "torchtitan"),
          .team = variable("WANDB_TEAM"),
          .name = variable("WANDB_RUN_NAME"),
          .folder = variable("WANDB_DIR"),
          .has_key = !variable("WANDB_API_KEY").empty() || in_netrc(netrc, host)};
}

}  // namespace nereus
