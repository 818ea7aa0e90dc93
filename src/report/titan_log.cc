#include "report/titan_log.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/text.h"
#include "report/lines.h"

namespace nereus::report {
namespace {

using std::string_view;

// What follows `mark`, up to the line's end; nothing when the line does not have it.
std::optional<string_view> behind(string_view line, string_view mark) {
  const size_t at = line.find(mark);
  if (at == string_view::npos) return std::nullopt;
  return line.substr(at + mark.size());
}

string_view until(string_view text, string_view mark) { return text.substr(0, text.find(mark)); }

// "1,234.5", "12.34%", "nan": false for anything else.
bool number(string_view text, double& out) {
  char digits[40];
  size_t n = 0;
  for (const char c : text) {
    if (c == ',') continue;
    if (n == sizeof digits) return false;
    digits[n++] = c;
  }
  while (n > 0 && (digits[n - 1] == '%' || digits[n - 1] == ')')) --n;
  const auto [rest, error] = std::from_chars(digits, digits + n, out);
  return n > 0 && error == std::errc() && rest == digits + n;
}

struct Line {
  string_view before;  // the logger's own text: "[rank448]:" of torchrun, "0: " of srun --label
  string_view label;   // "rank448"
  double time = kUnknown;
  string_view level, message;
};

// Splits a line of the logger; `message` is all of one that is none.
Line split(string_view line) {
  Line out;
  const size_t titan = line.substr(0, 96).find("[titan] ");
  out.message = line;
  if (titan == string_view::npos) return out;
  string_view label = out.before = line.substr(0, titan);
  while (!label.empty() && (label.back() == ' ' || label.back() == ':')) label.remove_suffix(1);
  if (label.starts_with('[') && label.ends_with(']')) label = label.substr(1, label.size() - 2);
  out.label = label;
  const string_view rest = line.substr(titan + 8);
  out.time = log_time(rest);
  // " - root - INFO - "
  const size_t name = rest.find(" - ");
  const size_t level = name == string_view::npos ? name : rest.find(" - ", name + 3);
  const size_t message = level == string_view::npos ? level : rest.find(" - ", level + 3);
  if (message == string_view::npos) return out;
  out.level = rest.substr(level + 3, message - level - 3);
  out.message = rest.substr(message + 3);
  return out;
}

struct StepLine {
  int64_t step = -1;
  double time = kUnknown;
  std::vector<std::pair<string_view, double>> figures;  // names are literals or in `names`
  std::set<std::string, std::less<>> names;             // of forks' own figures

  double loss() const {
    for (const auto& [name, value] : figures)
      if (name == "loss") return value;
    return kUnknown;
  }
};

class Reader {
 public:
  Reader(Run& run, RunBuilder& builder) : run_(run), builder_(builder) {}

  void line(string_view raw) {
    if (raw.find('\033') != string_view::npos) raw = without_colors(raw);
    const Line l = split(raw);
    if (!config_.empty() && of_config(raw, l)) return;
    if (const size_t at = l.message.substr(0, 64).find("step:"); at != string_view::npos) {
      if (at == 0) return step_line(l, l.message);
      if (l.message.starts_with("validate step:")) return validation(l);
      if (l.level.empty() && l.message.find("loss:") != string_view::npos)
        return step_line(l, l.message.substr(at));  // cut out of a log
    }
    if (l.level.empty()) return;
    if (l.level == "INFO")
      info(l);
    else if (l.level == "WARNING" || l.level == "ERROR" || l.level == "CRITICAL")
      problem(l);
    if (of_counted(l)) builder_.seen(l.time);
  }

  bool finish() {
    commit();
    if (no_loss_)
      run_.notes.push_back(
          "The step lines are of a rank without the last pipeline stage, whose loss is written as "
          "-1: the log has no loss.");
    return any_;
  }

 private:
  // Of the rank whose lines count, or of one of which nothing tells.
  bool of_counted(const Line& l) const { return !any_ || l.label == counted_; }

  string_view without_colors(string_view raw) {
    plain_.clear();
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\033') {
        plain_ += raw[i];
        continue;
      }
      const size_t end = raw.find('m', i);
      if (end == string_view::npos) break;
      i = end;
    }
    return plain_;
  }

  // `text`: "step: 10  loss:  8.0123 ...".
  void step_line(const Line& l, string_view text) {
    StepLine& s = next_;
    s.step = -1;
    s.time = l.time;
    s.figures.clear();
    while (!text.empty()) {
      const size_t colon = text.find(':');
      if (colon == string_view::npos) break;
      const string_view name = text.substr(0, colon);
      size_t begin = text.find_first_not_of(' ', colon + 1);
      if (begin == string_view::npos) break;
      const size_t end = std::min(text.find(' ', begin), text.size());
      const string_view value = text.substr(begin, end - begin);
      add(s, name, value);
      const size_t behind_blanks = text.find_first_not_of(' ', end);
      text = behind_blanks == string_view::npos ? string_view() : text.substr(behind_blanks);
    }
    if (s.step < 0 || s.figures.size() < 2) return;
    if (of_counted(l)) builder_.seen(l.time);
    took(l.label);
  }

  static void add(StepLine& s, string_view name, string_view value) {
    double x = 0;
    if (name == "step") {
      if (number(value, x) && x >= 0) s.step = static_cast<int64_t>(x);
    } else if (name == "memory") {
      if (number(until(value, "GiB"), x)) s.figures.emplace_back("memory_gib", x);
      if (const auto percent = behind(value, "("); percent && number(*percent, x))
        s.figures.emplace_back("memory_percent", x);
    } else if (number(value, x)) {
      static constexpr string_view kNames[] = {"loss", "grad_norm", "tps", "tflops", "mfu", "lr"};
      const auto* const known = std::find(std::begin(kNames), std::end(kNames), name);
      if (known != std::end(kNames)) {
        s.figures.emplace_back(*known, x);
      } else if (name.size() < 64) {
        s.figures.emplace_back(*s.names.emplace(name).first, x);
      }
    }
  }

  // next_ is a step line of a rank: does it count?
  void took(string_view label) {
    const bool has_loss = !(next_.loss() == -1);
    if (!any_ || restarted_) counted_ = label;
    const bool of_another = label != counted_;
    if (any_ && (of_another || next_.step == pending_.step) && !restarted_) {
      if (!(no_loss_ && has_loss)) return;
      counted_ = label;  // its lines have what the others' lack
      if (next_.step < pending_.step) return;
    }
    if (pending_.step >= 0 && next_.step < pending_.step && !restarted_) {
      // A late line of another rank, unless a rank that is named went back, or far.
      if (label.empty() && next_.step >= before_pending_) return;
    }
    if (next_.step != pending_.step || restarted_) commit();
    any_ = true;
    restarted_ = false;
    no_loss_ = !has_loss;
    std::swap(pending_, next_);
  }

  void commit() {
    if (pending_.step < 0) return;
    before_pending_ = pending_.step;
    for (const auto& [name, value] : pending_.figures)
      if (name != "loss" || value != -1) builder_.figure(name, value);
    builder_.step_end(pending_.step, pending_.time);
    saved_ = false;
    pending_.step = -1;
  }

  int64_t step_now() const { return pending_.step >= 0 ? pending_.step : run_.steps; }

  void validation(const Line& l) {
    string_view text = l.message;
    double step = 0, loss = 0;
    const auto value = [&](string_view name, double& out) {
      auto rest = behind(text, name);
      if (!rest) return false;
      while (rest->starts_with(' ')) rest->remove_prefix(1);
      return number(until(*rest, " "), out);
    };
    if (value("step:", step) && value("loss:", loss) && loss != -1) {
      commit();
      builder_.validation(static_cast<int64_t>(step), loss);
    }
  }

  // The program begins: once, however many ranks say so.
  void started(double time) {
    if (restarted_) return;
    commit();
    builder_.start(time);
    restarted_ = true;
    training_ = false;
  }

  void info(const Line& l) {
    const string_view m = l.message;
    if (m.starts_with("Starting job: ")) {
      if (!of_counted(l)) return;
      started(l.time);
      run_.description = m.substr(14);
    } else if (m.starts_with("Training starts at step")) {
      if (!of_counted(l)) return;
      started(l.time);
      if (!training_ && l.time > builder_.current().begin)
        builder_.current().set_up = l.time - builder_.current().begin;
      training_ = true;
    } else if (m.starts_with("Finished saving the checkpoint")) {
      double seconds = 0;
      const auto text = behind(m, "in ");
      if (saved_ || !text || !number(until(*text, " "), seconds)) return;
      saved_ = true;
      builder_.current().saving += seconds;
      builder_.stalled(seconds);
      run_.add_event({.time = l.time,
                      .step = step_now(),
                      .kind = "checkpoint",
                      .text = std::string(m),
                      .seconds = seconds});
    } else if (m.starts_with("Training completed")) {
      commit();
      builder_.current().ended = "completed";
      run_.completed = true;
    } else if (m.starts_with("Running with args:") || m.starts_with("Running with configs:")) {
      if (!m.ends_with('{') || !config_.empty()) return;
      config_ = "{";
      before_config_ = l.before;
    } else {
      facts(m);
    }
  }

  void fact(const char* name, string_view value) {
    for (const auto& [known, text] : run_.environment)
      if (known == name) return;
    run_.environment.emplace_back(name, value);
  }

  // What the lines before the first step tell of the run.
  void facts(string_view m) {
    double x = 0;
    if (m.starts_with("Model ") && m.find(" size: ") != string_view::npos) {
      if (run_.model.empty()) run_.model = until(m.substr(6), " size: ");
      fact("Model", m.substr(6));
    } else if (m.starts_with("Total parameter count: ")) {
      fact("Parameters", m.substr(23));
    } else if (const auto mesh = behind(m, "device mesh with ")) {
      fact("Mesh", *mesh);
      if (const auto sizes = behind(*mesh, "], [")) {
        double ranks = 1;
        for (string_view rest = until(*sizes, "]"); !rest.empty();) {
          if (number(trimmed(until(rest, ",")), x)) ranks *= x;
          const size_t comma = rest.find(',');
          rest = comma == string_view::npos ? string_view() : rest.substr(comma + 1);
        }
        run_.ranks = ranks;
      }
    } else if (const auto capacity = behind(m, " capacity: ")) {
      fact("Device", *capacity);
    } else if (m.starts_with("Trainer is initialized with ")) {
      fact("Batch", m.substr(28));
      double batch = 0, sequence = 0;
      const auto b = behind(m, "global batch size "), s = behind(m, "sequence length ");
      const auto t = behind(m, "total steps ");
      if (b && s && number(until(*b, ","), batch) && number(until(*s, ","), sequence))
        run_.tokens_per_step = batch * sequence;
      if (t && number(until(*t, " "), x)) run_.total_steps = static_cast<int64_t>(x);
    } else if (m.starts_with("Layout: ")) {
      fact("Layout", m.substr(8));
    } else if (const auto peak = behind(m, "Peak FLOPS used for computing MFU: ")) {
      if (number(*peak, x)) run_.peak_flops = x;
    } else if (m.starts_with("Preparing ")) {
      fact("Data", m.substr(10));
    }
  }

  void problem(const Line& l) {
    constexpr size_t kMost = 1000;
    if (told_.size() >= kMost || !told_.insert(std::string(l.message)).second) return;
    run_.add_event({.time = l.time,
                    .step = step_now(),
                    .kind = l.level == "WARNING" ? "warning" : "error",
                    .text = std::string(l.message)});
  }

  // The configuration, which job.print_config writes over many lines, each behind what a launcher
  // put before the first one. False: the line is another rank's, or the logger's, which ends the
  // configuration.
  bool of_config(string_view raw, const Line& l) {
    constexpr size_t kMost = size_t{1} << 20;
    if (!l.level.empty()) {
      if (l.before == before_config_) config_.clear();  // cut off: the rest never came
      return false;
    }
    if (!raw.starts_with(before_config_)) return false;
    raw.remove_prefix(before_config_.size());
    config_ += raw;
    config_ += '\n';
    if (raw != "}" && config_.size() < kMost) return true;
    const auto json = nlohmann::ordered_json::parse(config_, nullptr, false);
    config_.clear();
    if (json.is_object() && run_.settings.empty()) flatten(json, "");
    return true;
  }

  void flatten(const nlohmann::ordered_json& json, const std::string& prefix) {
    for (const auto& [key, value] : json.items()) {
      const std::string name = prefix.empty() ? key : prefix + "." + key;
      if (value.is_object())
        flatten(value, name);
      else
        run_.settings.push_back({name, value.dump(), ""});
    }
  }

  Run& run_;
  RunBuilder& builder_;
  StepLine pending_, next_;  // the last that counts, until a later one shows that it is whole
  std::string counted_, plain_, config_, before_config_;
  std::set<std::string> told_;
  int64_t before_pending_ = -1;
  bool any_ = false, no_loss_ = false, restarted_ = false, training_ = false, saved_ = false;
};

}  // namespace

double log_time(std::string_view text) {
  constexpr string_view kForm = "dddd-dd-dd dd:dd:dd,ddd";
  if (text.size() < kForm.size()) return kUnknown;
  for (size_t i = 0; i < kForm.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == 'd' ? !digit : text[i] != kForm[i]) return kUnknown;
  }
  const auto digits = [&](size_t at, size_t n) {
    int64_t x = 0;
    for (size_t i = at; i < at + n; ++i) x = 10 * x + (text[i] - '0');
    return x;
  };
  // Days since 1970 of a date in the Gregorian calendar, with years that begin in March.
  const int64_t month = digits(5, 2), year = digits(0, 4) - (month <= 2 ? 1 : 0);
  const int64_t era = year / 400, of_era = year % 400;
  const int64_t day = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + digits(8, 2) - 1;
  const int64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + day - 719468;
  return static_cast<double>(((days * 24 + digits(11, 2)) * 60 + digits(14, 2)) * 60 +
                             digits(17, 2)) +
         1e-3 * static_cast<double>(digits(20, 3));
}

bool read_titan_log(const std::string& path, Run& run, RunBuilder& builder) {
  Reader reader(run, builder);
  FileLines lines(path);
  for (std::string_view line; lines.next(line);) reader.line(line);
  return reader.finish();
}

}  // namespace nereus::report
