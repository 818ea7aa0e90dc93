#include "launch/end_guard.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/plain_write.h"

namespace nereus {

using std::chrono::milliseconds;

EndGuard::EndGuard(World& world, milliseconds time)
    : world_(world),
      time_(time),
      code_(Error(Fault::kComm, "").exit_code()),
      thread_([this] { watch(); }) {}

EndGuard::~EndGuard() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void EndGuard::ends_with(const Error& e) {
  const std::lock_guard lock(mutex_);
  words_ = e.what();
  code_ = e.exit_code();
}

void EndGuard::watch() {
  std::unique_lock lock(mutex_);
  while (!over_ && !world_.failure()) changed_.wait_for(lock, milliseconds(10));
  if (changed_.wait_for(lock, time_, [&] { return over_; })) return;
  const std::string text = fmt::format(
      "error: {}\n  rank {} of the world does not come back from what it waits for: its process "
      "ends here\n",
      words_.empty() ? world_.last_words() : words_, world_.rank());
  plain_write(STDERR_FILENO, text);
  _exit(code_);
}

}  // namespace nereus
