#include "observe/chrome_trace.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"

namespace nereus {
namespace {

std::string json_text(const std::string& text) { return nlohmann::json(text).dump(); }

class Writer {
 public:
  Writer(const TraceFacts& facts, int64_t from)
      : from_(from), host_(2 * facts.rank), gpu_(host_ + 1) {
    out_ = R"({"displayTimeUnit":"ms","otherData":)" + facts_text(facts) + ",\"traceEvents\":[";
  }

  void host_rows(const TraceFacts& facts, const std::vector<TraceThread>& threads) {
    const std::string name = fmt::format("rank {}: host", facts.rank);
    process(host_, name);
    for (size_t i = 0; i < threads.size(); ++i) thread(host_, static_cast<int>(i), threads[i].name);
  }
  void gpu_rows(const TraceFacts& facts, const std::vector<std::string>& rows) {
    process(gpu_, fmt::format("rank {}: {}", facts.rank, facts.device));
    for (size_t i = 0; i < rows.size(); ++i) thread(gpu_, static_cast<int>(i), rows[i]);
  }

  void range(const TraceEvent& e) {
    std::string name = e.name, args;
    const auto add = [&](const char* key, int64_t value) {
      args += fmt::format("{}\"{}\":{}", args.empty() ? "" : ",", key, value);
    };
    if (e.args.step >= 0) {
      name += fmt::format(" {}", e.args.step);
      add("step", e.args.step);
    }
    if (e.args.layer >= 0) {
      name += fmt::format(" {}", e.args.layer);
      add("layer", e.args.layer);
    }
    if (e.args.microbatch >= 0) {
      name += fmt::format(" m{}", e.args.microbatch);
      add("microbatch", e.args.microbatch);
    }
    if (e.args.stage >= 0) {
      name += fmt::format(" s{}", e.args.stage);
      add("stage", e.args.stage);
    }
    if (e.args.bytes > 0) add("bytes", e.args.bytes);
    if (e.args.group != nullptr) {
      name += fmt::format(" ({})", e.args.group);
      args += fmt::format("{}\"group\":{}", args.empty() ? "" : ",", json_text(e.args.group));
    }
    complete(json_text(name), name_of(e.kind), host_, e.thread, e.begin, e.end, args);
  }

  void run(const KernelRun& r, const std::string& name, int row) {
    const char* const category = r.name == "copy"   ? "gpu_memcpy"
                                 : r.name == "fill" ? "gpu_memset"
                                                    : "kernel";
    std::string args = fmt::format("\"stream\":{}", r.stream);
    if (r.bytes > 0) args += fmt::format(",\"bytes\":{}", r.bytes);
    complete(name, category, gpu_, row, static_cast<int64_t>(r.begin), static_cast<int64_t>(r.end),
             args);
  }

  void launched(int64_t id, int thread, int64_t at, int row, const KernelRun& r) {
    arrow("ac2g", 's', id, host_, thread, at);
    arrow("ac2g", 'f', id, gpu_, row, static_cast<int64_t>(r.begin));
  }
  void microbatch(int64_t id, char phase, const TraceEvent& e) {
    arrow("microbatch", phase, id, host_, e.thread, e.begin);
  }

  void count(const char* name, int64_t time, const std::string& args) {
    event();
    out_ +=
        fmt::format(R"({{"ph":"C","name":"{}","cat":"counter","pid":{},"ts":{},"args":{{{}}}}})",
                    name, host_, microseconds(time - from_), args);
  }

  std::string end() { return std::move(out_) + "\n]}\n"; }

 private:
  // ns as microseconds, exactly.
  static std::string microseconds(int64_t ns) {
    return fmt::format("{}.{:03}", ns / 1000, ns % 1000);
  }

  static std::string facts_text(const TraceFacts& f) {
    nlohmann::ordered_json json = {
        {"program", "nereus"},        {"rank", f.rank},
        {"ranks", f.ranks},           {"device", f.device},
        {"layout", f.layout},         {"first_step", f.first_step},
        {"last_step", f.last_step},   {"step_seconds", f.step_seconds},
        {"gemm_flops", f.gemm_flops}, {"attention_flops", f.attention_flops}};
    if (f.peak_flops) json["peak_flops"] = *f.peak_flops;
    if (f.peak_bandwidth) json["peak_bandwidth"] = *f.peak_bandwidth;
    return json.dump();
  }

  void event() {
    out_ += first_ ? "\n" : ",\n";
    first_ = false;
  }
  void name(const char* what, int pid, int tid, const std::string& text) {
    event();
    out_ += fmt::format(R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":{}}}}})", what,
                        pid, tid, json_text(text));
  }
  void order(const char* what, int pid, int tid, int place) {
    event();
    out_ += fmt::format(R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"sort_index":{}}}}})",
                        what, pid, tid, place);
  }
  void process(int pid, const std::string& text) {
    name("process_name", pid, 0, text);
    order("process_sort_index", pid, 0, pid);
  }
  void thread(int pid, int tid, const std::string& text) {
    name("thread_name", pid, tid, text);
    order("thread_sort_index", pid, tid, tid);
  }
  void complete(const std::string& name_text, const char* category, int pid, int tid, int64_t begin,
                int64_t end, const std::string& args) {
    event();
    out_ += fmt::format(
        R"({{"ph":"X","name":{},"cat":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}}}})",
        name_text, category, pid, tid, microseconds(begin - from_), microseconds(end - begin),
        args);
  }
  void arrow(const char* category, char phase, int64_t id, int pid, int tid, int64_t time) {
    event();
    out_ += fmt::format(
        R"({{"ph":"{0}","name":"{1}","cat":"{1}","id":{2},"pid":{3},"tid":{4},"ts":{5}{6}}})",
        phase, category, id, pid, tid, microseconds(time - from_),
        phase == 's' ? "" : R"(,"bp":"e")");
  }

  int64_t from_;
  int host_, gpu_;
  bool first_ = true;
  std::string out_;
};

// A row a stream; kernels of one that overlap (as dependent launches may) take another.
struct Rows {
  std::vector<std::string> names;
  std::vector<int> of_run;
};

Rows rows_of(const std::vector<KernelRun>& sorted) {
  Rows out;
  struct Row {
    int number;
    uint64_t end;
  };
  std::map<uint32_t, std::vector<Row>> streams;
  for (const KernelRun& r : sorted) {
    std::vector<Row>& rows = streams[r.stream];
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const Row& known) { return known.end <= r.begin; });
    if (row == rows.end()) {
      out.names.push_back(rows.empty() ? fmt::format("stream {}", r.stream)
                                       : fmt::format("stream {} ({})", r.stream, rows.size() + 1));
      row = rows.insert(rows.end(), {static_cast<int>(out.names.size()) - 1, 0});
    }
    row->end = r.end;
    out.of_run.push_back(row->number);
  }
  return out;
}

// Arrows from each action of a microbatch to its next one in the step.
void write_microbatches(Writer& out, const std::vector<const TraceEvent*>& sorted) {
  std::map<int, std::vector<const TraceEvent*>> actions;  // of the step that goes on
  int64_t id = 0;
  const auto flush = [&] {
    for (const auto& [microbatch, all] : actions) {
      if (all.size() < 2) continue;
      ++id;
      for (size_t i = 0; i < all.size(); ++i)
        out.microbatch(id, i == 0 ? 's' : i + 1 == all.size() ? 'f' : 't', *all[i]);
    }
    actions.clear();
  };
  for (const TraceEvent* e : sorted) {
    if (e->kind == TraceKind::step) flush();
    if (e->kind == TraceKind::action && e->args.microbatch >= 0)
      actions[e->args.microbatch].push_back(e);
  }
  flush();
}

// Is `time` in one of a thread's outermost ranges, sorted by begin?
bool in_a_range(const std::vector<const TraceEvent*>& outer, int64_t time) {
  const auto after = std::upper_bound(outer.begin(), outer.end(), time,
                                      [](int64_t t, const TraceEvent* e) { return t < e->begin; });
  return after != outer.begin() && time <= (*std::prev(after))->end;
}

}  // namespace

std::string chrome_trace(const TraceFacts& facts, const TraceRecording& recording,
                         const std::vector<KernelRun>& all_runs, int64_t from) {
  Writer out(facts, from);
  out.host_rows(facts, recording.threads);
  std::vector<const TraceEvent*> events;
  for (const TraceEvent& e : recording.events)
    if (e.begin >= from) events.push_back(&e);
  // An outer range before those in it.
  std::stable_sort(events.begin(), events.end(), [](const TraceEvent* a, const TraceEvent* b) {
    return std::tuple(a->begin, -a->end) < std::tuple(b->begin, -b->end);
  });
  std::vector<std::vector<const TraceEvent*>> outer(recording.threads.size());
  for (const TraceEvent* e : events) {
    out.range(*e);
    auto& of_thread = outer[static_cast<size_t>(e->thread)];
    if (of_thread.empty() || e->begin >= of_thread.back()->end) of_thread.push_back(e);
  }
  write_microbatches(out, events);
  for (const TraceCount& c : recording.counts)
    if (c.time >= from) out.count(c.name, c.time, fmt::format("\"{}\":{}", c.name, c.value));
  for (const TraceMemory& m : recording.memory)
    if (m.time >= from)
      out.count("activations (bytes)", m.time,
                fmt::format(R"("kept":{},"edges":{},"pass":{})", m.kept, m.edges, m.pass));

  std::vector<KernelRun> runs;
  for (const KernelRun& r : all_runs)
    if (static_cast<int64_t>(r.begin) >= from) runs.push_back(r);
  if (runs.empty()) return out.end();
  std::stable_sort(runs.begin(), runs.end(),
                   [](const KernelRun& a, const KernelRun& b) { return a.begin < b.begin; });
  const Rows rows = rows_of(runs);
  out.gpu_rows(facts, rows.names);
  std::map<std::string, std::string> names;
  for (size_t i = 0; i < runs.size(); ++i) {
    const KernelRun& r = runs[i];
    std::string& name = names[r.name];
    if (name.empty()) name = json_text(r.name);
    out.run(r, name, rows.of_run[i]);
    const auto at = static_cast<int64_t>(r.launched);
    for (size_t t = 0;
         r.launched > 0 && at <= static_cast<int64_t>(r.begin) && t < recording.threads.size(); ++t)
      if (recording.threads[t].id == r.thread && in_a_range(outer[t], at))
        out.launched(static_cast<int64_t>(i) + 1, static_cast<int>(t), at, rows.of_run[i], r);
  }
  return out.end();
}

namespace {

std::string compressed(const std::string& text) {
  z_stream z{};
  constexpr int kGzip = 15 + 16;
  NEREUS_CHECK(kIo, deflateInit2(&z, 6, Z_DEFLATED, kGzip, 9, Z_DEFAULT_STRATEGY) == Z_OK,
               "zlib gives no memory to compress a trace of {} bytes", text.size());
  std::string out(deflateBound(&z, static_cast<uLong>(text.size())), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  const int code = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  NEREUS_CHECK(kIo, code == Z_STREAM_END, "zlib cannot compress a trace of {} bytes: code {}",
               text.size(), code);
  return out;
}

}  // namespace

std::string write_trace(const std::string& path, const std::string& trace) {
  const bool longer = trace.size() > kLongestPlainTrace;
  const std::string name = longer ? path + ".gz" : path;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (!error) error = replace_file(name, longer ? compressed(trace) : trace);
  NEREUS_CHECK(kIo, !error, "cannot write {}: {}", name, error.message());
  return name;
}

// zlib reads what is not compressed as it is.
std::string read_trace_text(const std::string& path) {
  NEREUS_CHECK(kConfig, is_there(path) && !is_folder(path),
               "{}: {}; name a trace (rank0_trace.json)", path, what_is_at(path));
  gzFile file = gzopen(path.c_str(), "rb");
  NEREUS_CHECK(kConfig, file != nullptr, "{}: cannot be read", path);
  std::string out;
  std::vector<char> part(size_t{1} << 20);
  int n = 0;
  while ((n = gzread(file, part.data(), static_cast<unsigned>(part.size()))) > 0)
    out.append(part.data(), static_cast<size_t>(n));
  const int code = gzclose(file);
  NEREUS_CHECK(kConfig, n == 0 && code == Z_OK, "{}: is cut off or damaged", path);
  return out;
}

}  // namespace nereus
