#include "launch/local_processes.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "control/tcp.h"

namespace nereus {
namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};
std::atomic<int> passed_on[3];  // how often each came; a handler reaches globals only
static_assert(std::atomic<int>::is_always_lock_free);

void count_signal(int signal) {
  for (size_t i = 0; i < 3; ++i)
    if (kSignals[i] == signal) ++passed_on[i];
}

// Counts signals while it lives.
class SignalCounter {
 public:
  SignalCounter() {
    for (size_t i = 0; i < 3; ++i) {
      passed_on[i] = 0;
      struct sigaction action = {};
      action.sa_handler = count_signal;
      sigaction(kSignals[i], &action, &before_[i]);
    }
    // Where it is ignored, nobody learns how a child ended.
    struct sigaction plain = {};
    plain.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &plain, &child_before_);
  }
  ~SignalCounter() {
    for (size_t i = 0; i < 3; ++i) sigaction(kSignals[i], &before_[i], nullptr);
    sigaction(SIGCHLD, &child_before_, nullptr);
  }
  SignalCounter(const SignalCounter&) = delete;
  SignalCounter& operator=(const SignalCounter&) = delete;

 private:
  struct sigaction before_[3], child_before_;
};

// What a child does between fork and exec may not allocate: all is made before.
pid_t start(const std::vector<std::string>& command, std::vector<std::string> environment) {
  std::vector<char*> arguments, variables;
  for (const std::string& a : command) arguments.push_back(const_cast<char*>(a.c_str()));
  arguments.push_back(nullptr);
  for (std::string& v : environment) variables.push_back(v.data());
  variables.push_back(nullptr);
  const pid_t parent = getpid(), child = fork();
  NEREUS_CHECK(kIo, child >= 0, "a rank's process could not be started: {}", std::strerror(errno));
  if (child > 0) return child;
  setpgid(0, 0);  // a terminal's Ctrl-C comes through this process, once
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  execve(arguments[0], arguments.data(), variables.data());
  _exit(127);
}

std::vector<std::string> environment_of(int rank, int ranks, int port) {
  const std::vector<std::pair<std::string, std::string>> ours = {
      {"RANK", std::to_string(rank)},       {"WORLD_SIZE", std::to_string(ranks)},
      {"LOCAL_RANK", std::to_string(rank)}, {"LOCAL_WORLD_SIZE", std::to_string(ranks)},
      {"MASTER_ADDR", "127.0.0.1"},         {"MASTER_PORT", std::to_string(port)}};
  std::vector<std::string> out;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string text = *v, name = text.substr(0, text.find('='));
    if (std::none_of(ours.begin(), ours.end(), [&](const auto& o) { return o.first == name; }))
      out.push_back(text);
  }
  for (const auto& [name, value] : ours) out.push_back(name + "=" + value);
  return out;
}

// Of a run that ended because a signal ended one of its ranks.
int exit_code_of(int signal) {
  for (const int asked : kSignals)
    if (signal == asked) return 128 + signal;
  return Error(Fault::kComm, "").exit_code();
}

}  // namespace

int run_local_processes(const std::vector<std::string>& command, int ranks, const Grace& grace) {
  using Clock = std::chrono::steady_clock;
  const int port = tcp::listen_at(0).port;
  const SignalCounter counter;
  std::vector<pid_t> children;
  for (int r = 0; r < ranks; ++r)
    children.push_back(start(command, environment_of(r, ranks, port)));
  const auto tell = [&](int signal) {
    for (const pid_t child : children)
      if (child > 0) kill(child, signal);
  };
  int told[3] = {}, left = ranks, code = 0;
  std::chrono::milliseconds patience{};
  Clock::time_point deadline = Clock::time_point::max();
  while (left > 0) {
    for (size_t i = 0; i < 3; ++i)
      for (; told[i] < passed_on[i]; ++told[i]) tell(kSignals[i]);
    int status = 0;
    const pid_t ended = waitpid(-1, &status, WNOHANG);
    NEREUS_CHECK(kIo, ended >= 0 || errno == EINTR, "{} ranks' processes cannot be waited for: {}",
                 left, std::strerror(errno));
    const auto child = std::find(children.begin(), children.end(), ended);
    if (ended > 0 && child != children.end()) {
      *child = 0;
      --left;
      const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      const int its = signal == 0 ? WEXITSTATUS(status) : exit_code_of(signal);
      if (its == 0 || code != 0) continue;
      code = its;
      if (signal != 0)
        log::error("rank {}: its process was ended by signal {} ({})", child - children.begin(),
                   signal, strsignal(signal));
      patience = signal != 0 ? grace.after_death : grace.after_failure;
      const bool stopped = signal == 0 && its > 128;
      if (!stopped) deadline = Clock::now() + patience;
      continue;
    }
    if (Clock::now() > deadline) {
      for (size_t r = 0; r < children.size(); ++r)
        if (children[r] > 0)
          log::error("rank {}: its process did not end within {:g} s of that and is killed", r,
                     std::chrono::duration<double>(patience).count());
      tell(SIGKILL);
      deadline = Clock::time_point::max();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return code;
}

std::vector<std::string> without_nproc(std::vector<std::string> arguments) {
  for (size_t i = 0; i < arguments.size();) {
    const bool alone = arguments[i] == "--nproc";
    if (!alone && arguments[i].rfind("--nproc=", 0) != 0) {
      ++i;
      continue;
    }
    const auto at = arguments.begin() + static_cast<std::ptrdiff_t>(i);
    arguments.erase(at, at + (alone && i + 1 < arguments.size() ? 2 : 1));
  }
  return arguments;
}

}  // namespace nereus
