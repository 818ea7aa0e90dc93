#include "report/event_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <protozero/pbf_reader.hpp>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/little_endian.h"

namespace nereus::report {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLongest = uint64_t{1} << 28;  // of a record: an image is no scalar

// The numbers of tensorflow/core/util/event.proto and summary.proto.
enum : protozero::pbf_tag_type {
  kEventTime = 1,
  kEventStep = 2,
  kEventSummary = 5,
  kEventSession = 7,
  kSummaryValue = 1,
  kValueTag = 1,
  kValueSimple = 2,
  kValueTensor = 8,
  kTensorFloats = 5,
  kTensorContent = 4,
  kTensorType = 1,
  kTensorTexts = 8,
  kSessionStatus = 1
};
constexpr int kStart = 1;             // SessionLog.SessionStatus
constexpr int kFloat = 1, kText = 7;  // DataType

struct Value {
  std::string tag;
  double number = kUnknown;
  std::string text;
};

// A scalar may be a tensor: add_scalar(new_style=True).
void read_tensor(protozero::pbf_reader tensor, Value& value) {
  int type = 0;
  std::string content;
  float one = std::numeric_limits<float>::quiet_NaN();
  while (tensor.next()) {
    if (tensor.tag() == kTensorType)
      type = tensor.get_int32();
    else if (tensor.tag() == kTensorContent)
      content = tensor.get_string();
    else if (tensor.tag() == kTensorFloats &&
             tensor.wire_type() == protozero::pbf_wire_type::length_delimited)
      for (const float x : tensor.get_packed_float()) one = x;
    else if (tensor.tag() == kTensorFloats)
      one = tensor.get_float();
    else if (tensor.tag() == kTensorTexts)
      value.text = tensor.get_string();
    else
      tensor.skip();
  }
  if (type == kFloat && content.size() == sizeof one) std::memcpy(&one, content.data(), sizeof one);
  if (type == kFloat) value.number = static_cast<double>(one);
  if (type != kText) value.text.clear();
}

Value read_value(protozero::pbf_reader message) {
  Value value;
  while (message.next()) {
    if (message.tag() == kValueTag)
      value.tag = message.get_string();
    else if (message.tag() == kValueSimple)
      value.number = static_cast<double>(message.get_float());
    else if (message.tag() == kValueTensor)
      read_tensor(message.get_message(), value);
    else
      message.skip();
  }
  return value;
}

class Reader {
 public:
  Reader(Run& run, RunBuilder& builder) : run_(run), builder_(builder) {}

  // False: the file ends within a record, or a checksum is wrong.
  bool file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string record;
    for (;;) {
      char head[12];
      in.read(head, sizeof head);
      if (in.gcount() == 0) return true;
      if (in.gcount() < static_cast<std::streamsize>(sizeof head)) return false;
      const std::string_view size(head, 8);
      const auto length = little_endian<uint64_t>(size);
      if (!right(size, {head + 8, 4}) || length > kLongest) return false;
      record.resize(length + 4);
      in.read(record.data(), static_cast<std::streamsize>(record.size()));
      if (static_cast<uint64_t>(in.gcount()) < record.size()) return false;
      const auto bytes = std::string_view(record).substr(0, length);
      if (!right(bytes, std::string_view(record).substr(length))) return false;
      try {
        event(protozero::pbf_reader(bytes.data(), bytes.size()));
      } catch (const protozero::exception&) {
        return false;
      }
    }
  }

  // A step's tags may come in several events: it ends when another begins.
  void end_step() {
    if (step_ < 0) return;
    for (const auto& [name, value] : figures_)
      if (name == "validation_loss")
        builder_.validation(step_, value);
      else
        builder_.figure(name, value);
    if (figures_.size() > (figures_.count("validation_loss") > 0 ? 1 : 0))
      builder_.step_end(step_, time_);
    figures_.clear();
    step_ = -1;
  }

  void started() {
    end_step();
    fresh_ = true;
  }

 private:
  static bool right(std::string_view bytes, std::string_view checksum) {
    return little_endian<uint32_t>(checksum) == masked_crc32c(bytes);
  }

  void event(protozero::pbf_reader message) {
    double time = kUnknown;
    int64_t step = 0;
    std::vector<Value> values;
    bool start = false;
    while (message.next()) {
      if (message.tag() == kEventTime) {
        time = message.get_double();
      } else if (message.tag() == kEventStep) {
        step = message.get_int64();
      } else if (message.tag() == kEventSummary) {
        auto summary = message.get_message();
        while (summary.next())
          if (summary.tag() == kSummaryValue)
            values.push_back(read_value(summary.get_message()));
          else
            summary.skip();
      } else if (message.tag() == kEventSession) {
        auto session = message.get_message();
        while (session.next())
          if (session.tag() == kSessionStatus)
            start = session.get_int32() == kStart;
          else
            session.skip();
      } else {
        message.skip();
      }
    }
    if (start) started();
    for (const Value& v : values) take(v, step, time);
  }

  void take(const Value& v, int64_t step, double time) {
    if (!v.text.empty()) {
      run_.environment.emplace_back(v.tag, v.text.substr(0, 4000));
      return;
    }
    if (std::isnan(v.number) && !v.tag.starts_with("loss_metrics/")) return;
    const std::string name = name_of_tag(v.tag);
    if (step != step_ || figures_.count(name) > 0) end_step();
    if (fresh_) builder_.start(time);
    fresh_ = false;
    builder_.seen(time);
    step_ = step;
    time_ = time;
    figures_[name] = v.number;
  }

  Run& run_;
  RunBuilder& builder_;
  std::map<std::string, double> figures_;  // of step_
  int64_t step_ = -1;
  double time_ = kUnknown;
  bool fresh_ = true;
};

}  // namespace

std::string name_of_tag(const std::string& tag) {
  static const std::map<std::string, std::string> kNames = {
      {"loss_metrics/global_avg_loss", "loss"},
      {"throughput(tps)", "tps"},
      {"mfu(%)", "mfu"},
      {"time_metrics/end_to_end(s)", "step_seconds"},
      {"time_metrics/data_loading(s)", "data_seconds"},
      {"memory/max_reserved(GiB)", "memory_gib"},
      {"memory/max_reserved(%)", "memory_percent"},
      {"n_tokens_seen", "tokens_seen"},
      {"loss_metrics/global_max_loss", "max_loss"},
      {"validation_metrics/loss", "validation_loss"},
  };
  if (const auto known = kNames.find(tag); known != kNames.end()) return known->second;
  // Nereus' own are group/name(unit).
  const size_t slash = tag.find('/'), unit = tag.find('(');
  if (slash == std::string::npos || unit == std::string::npos || unit < slash) return tag;
  const std::string group = tag.substr(0, slash), name = tag.substr(slash + 1, unit - slash - 1);
  if (group == "step_parts") return name + "_seconds";
  if (group == "experts") return "expert_" + name;
  return group == "throughput" ? name : tag;
}

// Of save_for_all_ranks, ".../rank_3/..."; -1: of another folder.
int64_t rank_of(const fs::path& path) {
  const std::string folder = path.parent_path().filename().string();
  if (!folder.starts_with("rank_") || folder.size() > 12) return -1;
  return std::strtoll(folder.c_str() + 5, nullptr, 10);
}

std::vector<std::string> event_files(const std::string& folder) {
  std::error_code error;
  std::vector<std::pair<std::string, std::string>> found;
  constexpr auto kOptions = fs::directory_options::skip_permission_denied;
  int folders = 0;
  for (fs::recursive_directory_iterator it(folder, kOptions, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_directory(error) && (it.depth() > 4 || ++folders > 10000))
      it.disable_recursion_pending();
    const std::string name = it->path().filename().string();
    if (name.starts_with("events.out.tfevents.")) found.emplace_back(name, it->path().string());
  }
  std::sort(found.begin(), found.end());
  int64_t lowest = std::numeric_limits<int64_t>::max();  // one rank stands for all
  for (const auto& [name, path] : found) lowest = std::min(lowest, rank_of(path));
  std::vector<std::string> out;
  for (auto& [name, path] : found)
    if (rank_of(path) == lowest) out.push_back(std::move(path));
  return out;
}

void read_event_files(const std::vector<std::string>& paths, Run& run, RunBuilder& builder) {
  Reader reader(run, builder);
  for (const std::string& path : paths) {
    reader.started();
    if (!reader.file(path))
      run.notes.push_back(fmt::format(
          "{}: a record is torn or has a wrong checksum; it and what follows it are left out.",
          fs::path(path).filename().string()));
    reader.end_step();
  }
}

}  // namespace nereus::report
