// A strict judge of trace files, written from the description of the format (Chrome's "Trace Event
// Format") and not from what writes them. "" for a trace that is right, else the first thing wrong:
//
//   every event has what its phase needs, of the right type, and no other phase is there
//   complete events ("X") of a row nest: they are in one another or apart
//   an arrow (same cat, name and id) starts once, ends once, goes forward in time, and each of its
//   places lies in a complete event of its row
//   counters ("C") do not go back in time; "tokens" never falls
//   every process and every row with events is named, once
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace nereus::test {

class TraceCheck {
 public:
  static std::string wrong(const std::string& text) {
    TraceCheck check;
    try {
      check.all(nlohmann::json::parse(text));
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  }

 private:
  using Json = nlohmann::json;
  using Row = std::pair<int64_t, int64_t>;  // process, thread
  struct Span {
    int64_t begin, end;  // ns
    std::string name;
  };
  struct Place {
    char phase;
    int64_t time;
    Row row;
  };

  [[noreturn]] static void fail(const std::string& why, const Json& e) {
    throw std::runtime_error(why + ": " + e.dump());
  }
  // Microseconds with three decimals: whole nanoseconds.
  static int64_t time(const Json& e, const char* key) {
    if (!e.contains(key) || !e[key].is_number()) fail(std::string("no number ") + key, e);
    const double ns = e[key].get<double>() * 1000;
    if (ns < 0 || std::abs(ns - std::round(ns)) > 0.01) fail(std::string("a bad ") + key, e);
    return static_cast<int64_t>(std::round(ns));
  }
  static Row row(const Json& e) {
    if (!e.contains("pid") || !e["pid"].is_number_integer()) fail("no pid", e);
    if (!e.contains("tid") || !e["tid"].is_number_integer()) fail("no tid", e);
    return {e["pid"].get<int64_t>(), e["tid"].get<int64_t>()};
  }

  void all(const Json& trace) {
    if (!trace.is_object() || !trace.contains("traceEvents") || !trace["traceEvents"].is_array())
      throw std::runtime_error("no object with traceEvents");
    if (trace.value("displayTimeUnit", "") != "ms") throw std::runtime_error("no time unit");
    if (trace["traceEvents"].empty()) throw std::runtime_error("no events");
    for (const Json& e : trace["traceEvents"]) event(e);
    for (auto& [where, spans] : rows_) covered_[where] = nest(where, spans);
    for (const auto& [id, places] : arrows_) arrow(id, places);
    for (const auto& [where, spans] : rows_)
      if (row_names_.count(where) == 0)
        throw std::runtime_error("a row without name: " + std::to_string(where.second));
    for (const int64_t pid : processes_)
      if (process_names_.count(pid) == 0)
        throw std::runtime_error("a process without name: " + std::to_string(pid));
  }

  void event(const Json& e) {
    if (!e.is_object() || !e.contains("ph") || !e["ph"].is_string()) fail("no phase", e);
    if (!e.contains("name") || !e["name"].is_string() || e["name"].get<std::string>().empty())
      fail("no name", e);
    const std::string phase = e["ph"].get<std::string>(), name = e["name"].get<std::string>();
    if (phase == "X") {
      if (e.value("cat", "").empty()) fail("no category", e);
      if (!e.contains("args") || !e["args"].is_object()) fail("no args", e);
      const int64_t begin = time(e, "ts");
      rows_[row(e)].push_back({begin, begin + time(e, "dur"), name});
      processes_.insert(row(e).first);
    } else if (phase == "s" || phase == "t" || phase == "f") {
      if (!e.contains("id") || !e["id"].is_number_integer()) fail("no id", e);
      if (phase == "f" && e.value("bp", "") != "e") fail("an end that binds to what follows", e);
      arrows_[{e.value("cat", ""), name, e["id"].get<int64_t>()}].push_back(
          {phase[0], time(e, "ts"), row(e)});
    } else if (phase == "C") {
      counter(e, name);
    } else if (phase == "M") {
      metadata(e, name);
    } else {
      fail("an unknown phase", e);
    }
  }

  void counter(const Json& e, const std::string& name) {
    if (!e.contains("pid") || !e["pid"].is_number_integer()) fail("no pid", e);
    processes_.insert(e["pid"].get<int64_t>());
    if (!e.contains("args") || !e["args"].is_object() || e["args"].empty()) fail("no values", e);
    const int64_t now = time(e, "ts");
    int64_t& last = counter_times_[{e["pid"].get<int64_t>(), name}];
    if (now < last) fail("a counter that goes back in time", e);
    last = now;
    for (const auto& [key, value] : e["args"].items()) {
      if (!value.is_number() || value.get<double>() < 0) fail("no count", e);
      if (name != "tokens") continue;
      if (value.get<double>() < tokens_) fail("tokens that fall", e);
      tokens_ = value.get<double>();
    }
  }

  void metadata(const Json& e, const std::string& name) {
    const Row where = row(e);
    if (!e.contains("args") || !e["args"].is_object()) fail("no args", e);
    if (name == "process_name" || name == "thread_name") {
      if (e["args"].value("name", "").empty()) fail("an empty name", e);
      const bool first = name == "process_name" ? process_names_.insert(where.first).second
                                                : row_names_.insert(where).second;
      if (!first) fail("named twice", e);
    } else if (name == "process_sort_index" || name == "thread_sort_index") {
      if (!e["args"].contains("sort_index") || !e["args"]["sort_index"].is_number_integer())
        fail("no sort_index", e);
    } else {
      fail("unknown metadata", e);
    }
  }

  // Returns the outer ones.
  static std::vector<Span> nest(const Row& where, std::vector<Span>& spans) {
    std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
      return std::tuple(a.begin, -a.end) < std::tuple(b.begin, -b.end);
    });
    std::vector<const Span*> open;
    std::vector<Span> outer;
    for (const Span& s : spans) {
      while (!open.empty() && open.back()->end <= s.begin) open.pop_back();
      if (!open.empty() && s.end > open.back()->end)
        throw std::runtime_error("row " + std::to_string(where.second) + ": " + s.name +
                                 " begins in " + open.back()->name + " and ends after it");
      if (open.empty()) outer.push_back(s);
      open.push_back(&s);
    }
    return outer;
  }
  bool in_a_span(const Place& p) const {
    const auto row = covered_.find(p.row);
    if (row == covered_.end()) return false;
    const auto after = std::upper_bound(row->second.begin(), row->second.end(), p.time,
                                        [](int64_t t, const Span& s) { return t < s.begin; });
    return after != row->second.begin() && p.time <= std::prev(after)->end;
  }

  void arrow(const std::tuple<std::string, std::string, int64_t>& id,
             const std::vector<Place>& places) const {
    const std::string which = std::get<1>(id) + " " + std::to_string(std::get<2>(id));
    const auto count = [&](char phase) {
      return std::count_if(places.begin(), places.end(),
                           [&](const Place& p) { return p.phase == phase; });
    };
    if (count('s') != 1 || count('f') != 1)
      throw std::runtime_error("an arrow without start or end: " + which);
    if (places.front().phase != 's' || places.back().phase != 'f')
      throw std::runtime_error("an arrow out of order: " + which);
    for (size_t i = 0; i < places.size(); ++i) {
      const Place& p = places[i];
      if (i > 0 && p.time < places[i - 1].time)
        throw std::runtime_error("an arrow back in time: " + which);
      if (!in_a_span(p)) throw std::runtime_error("an arrow at nothing: " + which);
    }
  }

  std::map<Row, std::vector<Span>> rows_, covered_;
  std::map<std::tuple<std::string, std::string, int64_t>, std::vector<Place>> arrows_;
  std::map<std::pair<int64_t, std::string>, int64_t> counter_times_;
  std::set<int64_t> processes_, process_names_;
  std::set<Row> row_names_;
  double tokens_ = 0;
};

}  // namespace nereus::test
