// What a report shows of one run, whichever program wrote it: in bounded memory, however many steps
// it has.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/samples.h"

namespace nereus::report {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

enum class Source : uint8_t { nereus, torchtitan, tensorboard };

// A logged step of those that count: no later start did it again. What is not known is NaN.
struct LoggedStep {
  int64_t step = 0, before = 0;  // it stands for the steps after `before`
  double loss = kUnknown, grad_norm = kUnknown;
  double step_seconds = kUnknown;       // mean of its steps
  double tokens_per_second = kUnknown;  // of a device
  double tflops = kUnknown;             // of a device, TorchTitan's count
  double tflops_causal = kUnknown;
  double time = kUnknown;  // Unix seconds, or of a clock without a zone
  double seconds = 0;      // that its steps took, and those of lines thinned out before it
  bool first = false;      // of a start: it warms up
};

struct Event {
  double time = kUnknown;
  std::optional<int64_t> step;
  std::string kind, text;
  double seconds = kUnknown;  // that training stood still
};

struct Setting {
  std::string key, value, origin;
};

// The run from one start to its end.
struct Start {
  int64_t first = 0, last = 0;                    // logged steps
  double begin = kUnknown, end = kUnknown;        // clock
  double set_up = 0, saving = 0, validating = 0;  // seconds
  double training = 0;                            // in its logged steps
  double stalled = 0;  // of those, in saving and validating, which step_seconds has in it
  double again = 0;    // of those, in steps that a later start did again
  double rerun = 0;    // of those, in steps that ran again for the experts' capacity
  int64_t again_steps = 0, reruns = 0;
  std::string ended;  // "" when nothing says how
};

// Tokens of every expert over an even share, now and then.
struct Experts {
  struct Sample {
    int64_t step = 0;
    std::vector<float> load;  // [layers, experts]
    std::vector<float> bias;  // likewise, or empty
  };
  std::vector<int64_t> layers;
  int64_t experts = 0;  // of a layer
  std::vector<Sample> samples;
};

struct Memory {
  struct Owner {
    std::string name;
    double bytes = 0;
  };
  struct Rank {
    int rank = 0;
    std::vector<Owner> owners;
  };
  std::string source;  // "iteration_10"
  std::vector<Rank> ranks;
  // Of the first rank over the step, where its snapshot has it: seconds, and bytes in use.
  std::vector<double> times;
  std::vector<std::pair<std::string, std::vector<double>>> use;  // "kept", "edges", "pass"
};

// Operations a token over TorchTitan's count, by the other conventions.
struct FlopRatios {
  double non_causal = kUnknown, causal = kUnknown, recompute = kUnknown;
};

struct Run {
  std::string path, name, description, model;
  Source source = Source::nereus;
  int64_t steps = 0;                      // the last step's number
  int64_t total_steps = 0;                // asked for; 0: not known
  std::map<std::string, Samples> series;  // by the names of metrics.jsonl
  std::vector<LoggedStep> logged;         // thinned out when there are very many
  int64_t thinned = 1;                    // lines that each stands for
  double loss_first = kUnknown;           // of the first step ever logged
  std::vector<Event> events;
  std::map<std::string, int64_t> event_counts;  // by kind, those left out too
  std::vector<Start> starts;
  std::vector<Setting> settings;
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<std::string> notes;  // what of its files could not be read as it should
  double tokens_per_step = kUnknown, ranks = kUnknown, peak_flops = kUnknown;
  FlopRatios flops;
  Experts experts;
  Memory memory;
  bool completed = false;

  // Of very many the first are kept, and all are counted.
  void add_event(Event event) {
    constexpr size_t kMost = 2000;
    ++event_counts[event.kind];
    if (events.size() < kMost) events.push_back(std::move(event));
  }
  const Samples* find(const std::string& series_name) const {
    const auto it = series.find(series_name);
    return it == series.end() || it->second.empty() ? nullptr : &it->second;
  }
  double last(const std::string& series_name) const {
    const Samples* const s = find(series_name);
    return s == nullptr ? kUnknown : s->last().y;
  }
  std::string setting(const std::string& key) const {
    for (const Setting& s : settings)
      if (s.key == key) return s.value;
    return "";
  }
};

}  // namespace nereus::report
