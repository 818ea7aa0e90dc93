// Records steps of a run: traces and memory snapshots that [profiling] asks for, at TorchTitan's
// steps and under its names, and on GPUs the last step, whose account ends the log.
//
//   of every profile_freq steps the last profiler_active make a trace, and the profiler_warmup
//   before those are recorded and thrown away:
//     {dump_folder}/{save_traces_folder}/iteration_{n}/rank{r}_trace.json   observe/chrome_trace.h
//   of every profile_freq-th step:
//     {dump_folder}/{save_memory_snapshot_folder}/iteration_{n}/rank{r}_memory_snapshot.json
//
// n is the last step that a file covers: a run that ends among active steps writes what it has.
// A file that cannot be written is a warning, and the last one: the run goes on without profiles.
#pragma once

#include <string>

#include "control/world.h"
#include "device/trace.h"
#include "engine/memory_table.h"
#include "observe/kernel_times.h"
#include "train/run_report.h"

namespace nereus {

// Is a file of this rank asked for, by profiling.ranks?
bool is_profiled(const JobConfig&, const RunLayout&, int rank);

class StepProfiler {
 public:
  struct Run {  // all of it must outlive the profiler
    const JobConfig& config;
    const RunLayout& layout;
    Stream& stream;
    World& world;
    RunReport& report;
    TraceRecorder* recorder;  // of the stream; null where needs_recorder() is false
    int rank;
    int64_t first_step;
  };
  // Is there anything to record in such a run, here?
  static bool needs_recorder(const JobConfig&, const Stream&);

  // `memory`: this rank's, for its snapshots.
  StepProfiler(const Run&, MemoryTable memory);

  // Rank 0: what will be written, with its size; a warning where nothing will.
  void announce() const;

  // The step before must be confirmed before before(step): this one begins on an idle device.
  bool begins_alone(int64_t step) const;
  // The step must be confirmed before after(step).
  bool ends_alone(int64_t step) const;
  // Around every step, on all ranks; on GPUs they wait for each other where recording begins or
  // ends. after() returns when the files are written.
  void before(int64_t step);
  void after(int64_t step);
  // After the last step, which may have come before its time: `step`, which is confirmed.
  void finish(int64_t step);

 private:
  int64_t place(int64_t step) const;
  bool in_window(int64_t step) const;  // recorded for a trace
  bool is_active(int64_t step) const;  // in the trace
  bool begins_window(int64_t step) const;
  bool begins_active(int64_t step) const;
  bool account_due(int64_t step) const;
  bool snapshot_due(int64_t step) const;
  double trace_bytes() const;  // of a trace, about

  void with_idle_gpus(FunctionRef<void()> work);
  void end_recording(int64_t step, bool account);
  TraceFacts facts(int64_t first, int64_t last, double seconds) const;
  void write(int64_t step, const std::string& folder, const char* name, const char* what,
             FunctionRef<void(const std::string& path)> work);

  Run run_;
  MemoryTable memory_;
  bool profiled_;  // this rank's files are asked for
  KernelRecorder kernels_;
  bool recording_ = false;          // a window or the last step, on all ranks
  bool recording_kernels_ = false;  // this rank
  bool failed_ = false;
  int64_t active_first_ = 0;              // of the window; 0: none has begun
  int64_t active_begin_ = 0, begin_ = 0;  // of it, and of the step: steady clock, ns
};

}  // namespace nereus
