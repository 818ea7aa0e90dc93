// The process's compute threads. One pool is made in main and passed; ranks that are threads share
// it, so that at most as many threads compute at once as there are cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/function_ref.h"

namespace nereus {

class TraceRecorder;

// Memory of one thread for the length of one task: contents are undefined at its start.
using Scratch = std::span<std::byte>;

class ThreadPool {
 public:
  static constexpr size_t kScratchBytes = size_t{4} << 20;  // per thread

  // `threads` compute threads in all, the caller of parallel_for included; >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls task(i, scratch) once for each i in [0, n), in any order, on the pool's threads and the
  // caller's, and returns when all have ended. How the work is cut into tasks must not depend on
  // threads(): that is what makes results independent of it. A task must not call parallel_for.
  // The first exception of a task is rethrown here, after all tasks have ended or been dropped.
  // `trace`, or null: is told when the pool's threads take part, under the name of what the caller
  // is in.
  void parallel_for(int64_t n, FunctionRef<void(int64_t, Scratch)> task,
                    TraceRecorder* trace = nullptr);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
