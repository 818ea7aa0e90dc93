#include "checkpoint/chunk_threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace nereus {

int chunk_threads(int64_t bytes) {
  constexpr int64_t kOfAThread = int64_t{64} << 20, kMost = 4;
  const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  return static_cast<int>(
      std::clamp<int64_t>(bytes / kOfAThread, 1, std::clamp(cores, int64_t{1}, kMost)));
}

void on_chunk_threads(int threads, int64_t n, const std::function<void(int, int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&](int thread) {
    try {
      for (int64_t i; (i = next++) < n;) work(thread, i);
    } catch (...) {
      next = n;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int t = 1; t < std::min<int64_t>(threads, n); ++t) others.emplace_back(run, t);
  run(0);
  for (std::thread& t : others) t.join();
  if (error) std::rethrow_exception(error);
}

void make_and_use_chunks(int threads, int slots, int64_t n,
                         const std::function<void(int, int64_t)>& make,
                         const std::function<void(int, int64_t)>& use) {
  if (threads == 1) {
    for (int64_t i = 0; i < n; ++i) {
      make(0, i);
      use(0, i);
    }
    return;
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> made(static_cast<size_t>(slots));
  int64_t next = 0, used = 0;
  std::exception_ptr error;
  const auto make_chunks = [&] {
    std::unique_lock lock(mutex);
    for (;;) {
      if (error || next == n) return;
      const int64_t i = next++;
      changed.wait(lock, [&] { return error || i < used + slots; });
      if (error) return;
      lock.unlock();
      std::exception_ptr mine;
      try {
        make(static_cast<int>(i % slots), i);
      } catch (...) {
        mine = std::current_exception();
      }
      lock.lock();
      if (mine && !error) error = mine;
      made[static_cast<size_t>(i % slots)] = true;
      changed.notify_all();
    }
  };
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) running.emplace_back(make_chunks);
  {
    std::unique_lock lock(mutex);
    for (int64_t i = 0; i < n; ++i) {
      const auto slot = static_cast<size_t>(i % slots);
      changed.wait(lock, [&] { return error || made[slot]; });
      if (error) break;
      lock.unlock();
      std::exception_ptr mine;
      try {
        use(static_cast<int>(slot), i);
      } catch (...) {
        mine = std::current_exception();
      }
      lock.lock();
      if (mine && !error) error = mine;
      made[slot] = false;
      used = i + 1;
      changed.notify_all();
    }
  }
  for (std::thread& t : running) t.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace nereus
