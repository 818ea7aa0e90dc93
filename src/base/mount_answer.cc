#include "base/mount_answer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace nereus {

bool mount_answers(const std::string& path, std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  using std::chrono::microseconds;
  const auto end = Clock::now() + limit;
  const pid_t child = ::fork();
  if (child < 0) return true;  // it is not the mount that fails
  if (child == 0) {
    struct stat there {};
    if (::stat(path.c_str(), &there) == 0) {
      const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
      if (fd >= 0) ::close(fd);
    }
    ::_exit(0);
  }
  for (microseconds pause{200};; pause = std::min(2 * pause, microseconds(50'000))) {
    const pid_t ended = ::waitpid(child, nullptr, WNOHANG);
    if (ended == child || (ended < 0 && errno != EINTR)) return true;
    if (Clock::now() >= end) break;
    std::this_thread::sleep_for(pause);
  }
  ::kill(child, SIGKILL);  // it may never end: nobody waits for it
  return false;
}

std::string mount_of(const std::string& path, const std::string& table) {
  std::error_code error;
  const std::string whole = std::filesystem::absolute(path, error).lexically_normal().string();
  std::ifstream in(table);
  std::string best, text;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word, point, type;
    for (int i = 0; i < 5 && words >> word; ++i) point = word;
    while (words >> word && word != "-") continue;
    words >> type;
    const bool holds = point == "/" || whole == point || whole.starts_with(point + "/");
    if (!holds || point.size() < best.size()) continue;
    best = point;
    text = point + " (" + type + ")";
  }
  return text;
}

}  // namespace nereus
