#include "device/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "device/trace.h"

namespace nereus {
namespace {

// One parallel_for. Lives on its caller's stack; `helpers` counts the pool's threads inside it, and
// the caller leaves only when there are none. A helper enters under the pool's mutex; leaving is
// its last access to the job.
struct Job {
  int64_t n = 0;
  FunctionRef<void(int64_t, Scratch)> task;
  TraceRecorder* trace = nullptr;  // null: not recorded
  const char* name = nullptr;      // with it
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers{0};
  std::exception_ptr failure;
  std::atomic<bool> failed{false};

  bool exhausted() const { return next.load(std::memory_order_relaxed) >= n; }

  void work(Scratch scratch, std::mutex& mutex) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      if (failed.load(std::memory_order_relaxed)) continue;
      try {
        task(i, scratch);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        failed = true;
      }
    }
  }
};

// Spins on `done` for a while before the caller sleeps: ops follow each other closely, the last
// tasks of all threads end almost together, and a thread that is woken often starts on its waker's
// core and stays there for milliseconds. The spin is short, so that others get the core soon.
template <class Done>
void spin(Done&& done) {
  using Clock = std::chrono::steady_clock;
  constexpr int kPauses = 1000;  // some 10 us
  constexpr std::chrono::milliseconds kPatience(5);
  for (int i = 0; i < kPauses; ++i) {
    if (done()) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  const auto deadline = Clock::now() + kPatience;
  while (!done() && Clock::now() < deadline) std::this_thread::yield();
}

}  // namespace

struct ThreadPool::Impl {
  std::mutex mutex;
  std::condition_variable wake;        // a job was added, or the pool ends
  std::condition_variable left;        // a helper left a job
  std::vector<Job*> jobs;              // not yet exhausted, oldest first
  std::atomic<int64_t> generation{0};  // grows with each added job: what idle threads spin on
  bool ending = false;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<std::byte[]>> scratch;       // of the pool's threads
  std::vector<std::unique_ptr<std::byte[]>> free_scratch;  // of callers, reused

  Job* oldest() {  // that is not exhausted
    while (!jobs.empty() && jobs.front()->exhausted()) jobs.erase(jobs.begin());
    return jobs.empty() ? nullptr : jobs.front();
  }

  void run(Scratch own) {
    std::unique_lock lock(mutex);
    for (;;) {
      if (Job* job = oldest()) {
        ++job->helpers;
        lock.unlock();
        {
          const TraceRange range(job->trace, TraceKind::tasks, job->name);
          job->work(own, mutex);
        }
        lock.lock();
        std::erase(jobs, job);
        if (--job->helpers == 0) left.notify_all();
        continue;
      }
      if (ending) return;
      // Also after coming late to a job: one that sleeps then comes late to the next, and so on.
      const int64_t seen = generation.load(std::memory_order_relaxed);
      lock.unlock();
      spin([&] { return generation.load(std::memory_order_acquire) != seen; });
      lock.lock();
      wake.wait(lock, [&] { return ending || generation.load() != seen; });
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  NEREUS_CHECK(kContract, threads >= 1, "a pool of {} threads; at least 1 is needed", threads);
  impl_->jobs.reserve(64);
  impl_->free_scratch.reserve(64);
  for (int i = 1; i < threads; ++i) {
    impl_->scratch.push_back(std::make_unique_for_overwrite<std::byte[]>(kScratchBytes));
    const Scratch own(impl_->scratch.back().get(), kScratchBytes);
    impl_->threads.emplace_back([this, own] { impl_->run(own); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->wake.notify_all();
  for (std::thread& t : impl_->threads) t.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::parallel_for(int64_t n, FunctionRef<void(int64_t, Scratch)> task,
                              TraceRecorder* trace) {
  if (n <= 0) return;
  Job job{.n = n, .task = task, .failure = nullptr};
  if (trace != nullptr && trace->records_ranges()) {
    job.name = trace->innermost();
    job.trace = job.name != nullptr ? trace : nullptr;
  }
  std::unique_ptr<std::byte[]> own;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->free_scratch.empty()) {
      own = std::move(impl_->free_scratch.back());
      impl_->free_scratch.pop_back();
    }
    if (n > 1 && !impl_->threads.empty()) {
      impl_->jobs.push_back(&job);
      impl_->generation.fetch_add(1, std::memory_order_release);
    }
  }
  if (n > 1 && !impl_->threads.empty()) impl_->wake.notify_all();
  if (!own) own = std::make_unique_for_overwrite<std::byte[]>(kScratchBytes);
  job.work(Scratch(own.get(), kScratchBytes), impl_->mutex);

  std::unique_lock lock(impl_->mutex);
  std::erase(impl_->jobs, &job);  // nobody enters from here on
  impl_->free_scratch.push_back(std::move(own));
  lock.unlock();
  const auto alone = [&job] { return job.helpers.load(std::memory_order_acquire) == 0; };
  spin(alone);
  if (!alone()) {
    lock.lock();
    impl_->left.wait(lock, alone);
    lock.unlock();
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace nereus
