#include "train/stop_signal.h"

#include <atomic>
#include <csignal>
#include <mutex>

namespace nereus {
namespace {

// A signal handler can reach nothing but a global; any thread may be the one that handles it.
std::atomic<int> received_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

// The process has one handler of a signal, and a StopSignal for each of its ranks.
std::mutex mutex;
int living = 0;

void remember(int signal) {
  received_signal = signal;
  if (signal == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  const std::lock_guard lock(mutex);
  if (living++ > 0) return;
  received_signal = 0;
  for (const int signal : kSignals) std::signal(signal, remember);
}

StopSignal::~StopSignal() {
  const std::lock_guard lock(mutex);
  if (--living > 0) return;
  for (const int signal : kSignals) std::signal(signal, signal == SIGINT ? SIG_DFL : SIG_IGN);
}

int StopSignal::received() { return received_signal; }

const char* StopSignal::name(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "a signal";
  }
}

}  // namespace nereus
