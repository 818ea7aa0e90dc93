#include "train/step_profiler.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "base/units.h"
#include "config/rank_list.h"
#include "device/nvtx.h"
#include "train/memory_snapshot.h"

namespace nereus {
namespace {

constexpr const char* kAll = "all";
constexpr const char* kStage = "stage";

double seconds_between(int64_t begin, int64_t end) {
  return 1e-9 * static_cast<double>(end - begin);
}

std::string folder_of(const JobConfig& c, const std::string& name) {
  return c.job.dump_folder + "/" + name;
}

}  // namespace

// "stage": the first rank of each pipeline rank.
bool is_profiled(const JobConfig& config, const RunLayout& layout, int rank) {
  const std::string& ranks = config.profiling.ranks;
  if (ranks == kAll) return true;
  if (ranks != kStage) {
    const Integers listed = ranks_of_list(ranks);
    return std::find(listed.begin(), listed.end(), rank) != listed.end();
  }
  const int position = layout.mesh.position(MeshGroup::pp, rank);
  for (int r = 0; r < rank; ++r)
    if (layout.mesh.position(MeshGroup::pp, r) == position) return false;
  return true;
}

bool StepProfiler::needs_recorder(const JobConfig& config, const Stream& stream) {
  return config.profiling.enable_profiling || config.profiling.enable_memory_snapshot ||
         stream.on_gpu() || nvtx::attached();
}

StepProfiler::StepProfiler(const Run& run, MemoryTable memory)
    : run_(run),
      memory_(std::move(memory)),
      profiled_(is_profiled(run.config, run.layout, run.rank)) {}

int64_t StepProfiler::place(int64_t step) const {
  return (step - 1) % run_.config.profiling.profile_freq;
}

bool StepProfiler::in_window(int64_t step) const {
  const auto& p = run_.config.profiling;
  return p.enable_profiling &&
         place(step) >= p.profile_freq - p.profiler_active - p.profiler_warmup;
}

bool StepProfiler::is_active(int64_t step) const {
  const auto& p = run_.config.profiling;
  return p.enable_profiling && place(step) >= p.profile_freq - p.profiler_active;
}

bool StepProfiler::begins_window(int64_t step) const {
  return in_window(step) && (step == run_.first_step || place(step) == 0 || !in_window(step - 1));
}

bool StepProfiler::begins_active(int64_t step) const {
  return is_active(step) && (step == run_.first_step || place(step) == 0 || !is_active(step - 1));
}

// None of the first steps, which warm up.
bool StepProfiler::account_due(int64_t step) const {
  constexpr int64_t kWarm = 5;
  return run_.stream.on_gpu() && step == run_.config.training.steps && step > kWarm;
}

bool StepProfiler::snapshot_due(int64_t step) const {
  const auto& p = run_.config.profiling;
  return p.enable_memory_snapshot && step % p.profile_freq == 0;
}

bool StepProfiler::begins_alone(int64_t step) const {
  return begins_window(step) || begins_active(step) || account_due(step);
}

bool StepProfiler::ends_alone(int64_t step) const {
  const bool last = step == run_.config.training.steps;
  return account_due(step) ||
         (in_window(step) && (last || step % run_.config.profiling.profile_freq == 0));
}

// What stops all GPUs of this process must not find one that waits for another.
void StepProfiler::with_idle_gpus(FunctionRef<void()> work) {
  if (!run_.stream.on_gpu()) return;
  run_.stream.synchronize();
  run_.world.meet_on_host();
  work();
  run_.world.meet_on_host();
}

void StepProfiler::before(int64_t step) {
  const bool account = account_due(step), writes = run_.rank == 0;
  if (begins_window(step) || account) {
    recording_ = true;
    with_idle_gpus([&] {
      if (!recording_kernels_ && ((profiled_ && in_window(step)) || (account && writes)))
        recording_kernels_ = kernels_.start(run_.stream);
    });
    if ((profiled_ && in_window(step)) || (account && writes))
      run_.recorder->start({.ranges = true, .memory = true});
  }
  if (snapshot_due(step) && profiled_) run_.recorder->start({.memory = true});
  if (begins_alone(step)) run_.stream.synchronize();
  begin_ = TraceRecorder::now();
  if (!begins_active(step)) return;
  active_first_ = step;
  active_begin_ = begin_;
}

void StepProfiler::after(int64_t step) {
  if (ends_alone(step)) {
    end_recording(step, account_due(step));
  } else if (snapshot_due(step) && profiled_) {
    const TraceRecording recording = run_.recorder->take();
    write(step, run_.config.profiling.save_memory_snapshot_folder, "memory_snapshot.json",
          "memory snapshot", [&](const std::string& path) {
            write_snapshot(path, {.facts = facts(step, step, 0), .table = memory_},
                           recording.memory, begin_);
          });
  }
}

void StepProfiler::finish(int64_t step) {
  if (recording_) end_recording(step, false);
}

TraceFacts StepProfiler::facts(int64_t first, int64_t last, double seconds) const {
  TraceFacts out = run_.report.trace_facts();
  out.rank = run_.rank;
  out.ranks = run_.layout.mesh.world();
  out.first_step = first;
  out.last_step = last;
  out.step_seconds = seconds / static_cast<double>(last - first + 1);
  return out;
}

void StepProfiler::end_recording(int64_t step, bool account) {
  run_.stream.synchronize();  // with the update, which the step's result does not wait for
  const int64_t end = TraceRecorder::now();
  std::vector<KernelRun> runs;
  with_idle_gpus([&] {
    if (recording_kernels_) runs = kernels_.stop(run_.stream);
  });
  const bool kernels = std::exchange(recording_kernels_, false);
  const TraceRecording recording = run_.recorder->take();
  const auto& p = run_.config.profiling;
  if (profiled_ && active_first_ > 0)
    write(step, p.save_traces_folder, "trace.json", "profiler traces",
          [&](const std::string& path) {
            const TraceFacts of = facts(active_first_, step, seconds_between(active_begin_, end));
            write_trace(path, chrome_trace(of, recording, runs, active_begin_));
          });
  if (profiled_ && snapshot_due(step))
    write(step, p.save_memory_snapshot_folder, "memory_snapshot.json", "memory snapshot",
          [&](const std::string& path) {
            write_snapshot(path, {.facts = facts(step, step, 0), .table = memory_},
                           recording.memory, begin_);
          });
  if (account && run_.rank == 0 && kernels) {
    std::erase_if(runs, [&](const KernelRun& r) { return static_cast<int64_t>(r.begin) < begin_; });
    const TraceFacts of = facts(step, step, seconds_between(begin_, end));
    run_.report.profile(runs, of, chrome_trace(of, recording, runs, begin_));
  }
  active_first_ = 0;
  recording_ = false;
}

// TorchTitan's lines. Where one cannot be written, the next ones could not either.
void StepProfiler::write(int64_t step, const std::string& folder, const char* name,
                         const char* what, FunctionRef<void(const std::string& path)> work) {
  if (failed_) return;
  const auto begin = std::chrono::steady_clock::now();
  log::info("Dumping {} at step {}", what, step);
  try {
    work(fmt::format("{}/iteration_{}/rank{}_{}", folder_of(run_.config, folder), step, run_.rank,
                     name));
  } catch (const Error& e) {
    if (e.fault() != Fault::kIo) throw;
    failed_ = true;
    log::warning("{}\n  Training goes on; this rank writes no more profiles.", e.what());
    return;
  }
  log::info("Finished dumping {} in {:.2f} seconds", what, seconds_since(begin));
}

// By what the traces of small runs have: ranges of a module's passes and of the rest of a step,
// with threads of a pool in every other op; on a GPU a kernel and an arrow for each. Edges and
// buckets are few beside them.
double StepProfiler::trace_bytes() const {
  constexpr double kForward = 14, kBackward = 26, kRest = 60, kRangeBytes = 125, kKernelBytes = 400;
  const Schedule& schedule = run_.layout.pipeline.schedule;
  double most = 0;
  for (size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    double ranges = kRest;
    for (const Action& a : schedule.actions[rank]) {
      const StagePart& part = run_.layout.pipeline.parts[static_cast<size_t>(a.stage)];
      const auto modules = static_cast<double>(part.end_block - part.first_block + 1);
      if (a.has_forward()) ranges += kForward * modules;
      if (a.has_dgrad() || a.has_wgrad()) ranges += kBackward * modules;
    }
    most = std::max(most, ranges);
  }
  const auto steps = static_cast<double>(run_.config.profiling.profiler_active);
  if (run_.stream.on_gpu()) return steps * most * (kRangeBytes + kKernelBytes);
  return steps * most * kRangeBytes * (1 + 0.5 * (run_.stream.threads() - 1));
}

void StepProfiler::announce() const {
  const auto& p = run_.config.profiling;
  const int64_t steps = run_.config.training.steps;
  if (!p.enable_profiling && !p.enable_memory_snapshot) return;
  int ranks = 0;
  for (int r = 0; r < run_.layout.mesh.world(); ++r)
    ranks += is_profiled(run_.config, run_.layout, r) ? 1 : 0;
  // The first step that a file is named after.
  const int64_t first = (run_.first_step + p.profile_freq - 1) / p.profile_freq * p.profile_freq;
  const int64_t times = first > steps ? 0 : (steps - first) / p.profile_freq + 1;
  if (p.enable_profiling) {
    log::info("Profiling active. Traces will be saved at {}",
              folder_of(run_.config, p.save_traces_folder));
    const double bytes = trace_bytes();
    log::info(
        "Traces: of {} step{} in every {}, at {} time{}, by {} of {} ranks (profiling.ranks = {}); "
        "about {} each before those over {} are compressed to a tenth, {} in all",
        p.profiler_active, p.profiler_active == 1 ? "" : "s", p.profile_freq, times,
        times == 1 ? "" : "s", ranks, run_.layout.mesh.world(), p.ranks,
        size_text(static_cast<int64_t>(bytes)), size_text(int64_t{kLongestPlainTrace}),
        size_text(static_cast<int64_t>(bytes * static_cast<double>(times * ranks))));
  }
  if (p.enable_memory_snapshot)
    log::info("Memory profiler active. Snapshot will be saved at {}",
              folder_of(run_.config, p.save_memory_snapshot_folder));
  const bool active = std::max<int64_t>(run_.first_step, first - p.profiler_active + 1) <= steps;
  if (times > 0 || (p.enable_profiling && active)) return;
  std::string remedy = fmt::format("--profiling.profile_freq={}", steps);
  if (p.enable_profiling && p.profiler_active > steps)
    remedy += fmt::format(" --profiling.profiler_active={}", steps);
  if (p.enable_profiling && p.profiler_active + p.profiler_warmup > steps)
    remedy += fmt::format(" --profiling.profiler_warmup={}",
                          std::max<int64_t>(0, steps - p.profiler_active));
  log::warning(
      "profiling.profile_freq = {}: the first profile would be of step {}, and the run ends with "
      "step {}: none will be written. {} writes one.",
      p.profile_freq, first, steps, remedy);
}

}  // namespace nereus
