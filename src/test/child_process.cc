#include "test/child_process.h"

#ifndef NEREUS_LIBFUZZER

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>

#include "control/tcp.h"

namespace nereus::test {
namespace {

std::map<std::string, std::function<void()>>& functions() {
  static std::map<std::string, std::function<void()>> all;
  return all;
}

constexpr const char* kFunction = "NEREUS_TEST_CHILD";
constexpr const char* kPipe = "NEREUS_TEST_PIPE";

// The child's main.
TEST(ChildProcess, Runs) {
  const std::string name = given(kFunction);
  if (name.empty()) GTEST_SKIP() << "this process is nobody's child";
  ASSERT_TRUE(functions().contains(name)) << name;
  functions()[name]();
}

const ChildFunction nothing("nothing", [] {});

}  // namespace

ChildFunction::ChildFunction(const std::string& name, std::function<void()> run) {
  functions()[name] = std::move(run);
}

std::string given(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

void tell(const std::string& line) {
  const std::string text = line + "\n";
  const int pipe = given(kPipe).empty() ? STDOUT_FILENO : std::atoi(given(kPipe).c_str());
  ASSERT_EQ(::write(pipe, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

Child::Child(const std::string& function, const Environment& environment,
             const std::string& test_filter) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  Environment all = environment;
  all[kFunction] = function;
  all[kPipe] = std::to_string(ends[1]);
  std::vector<std::string> variables;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string text = *e;
    if (!all.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [k, v] : all) variables.push_back(k + "=" + v);
  std::vector<char*> variable_pointers;
  for (std::string& v : variables) variable_pointers.push_back(v.data());
  variable_pointers.push_back(nullptr);
  std::string program = "/proc/self/exe";
  std::string filter =
      "--gtest_filter=" + (test_filter.empty() ? std::string("ChildProcess.Runs") : test_filter);
  std::string brief = "--gtest_brief=1";
  char* arguments[] = {program.data(), filter.data(), brief.data(), nullptr};

  pid_ = fork();
  if (pid_ == 0) {
    fcntl(ends[1], F_SETFD, 0);  // this one goes with it
    dup2(test_filter.empty() ? open("/dev/null", O_WRONLY) : ends[1], STDOUT_FILENO);
    execve("/proc/self/exe", arguments, variable_pointers.data());
    _exit(127);
  }
  ::close(ends[1]);
  pipe_ = ends[0];
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pipe_(std::exchange(other.pipe_, -1)),
      status_(other.status_),
      text_(std::move(other.text_)) {}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (pipe_ >= 0) ::close(pipe_);
}

void Child::kill(int signal) const { ::kill(pid_, signal); }

bool Child::read(int milliseconds) {
  pollfd p{pipe_, POLLIN, 0};
  if (poll(&p, 1, milliseconds) <= 0) return true;
  char piece[4096];
  const ssize_t n = ::read(pipe_, piece, sizeof piece);
  if (n > 0) text_.append(piece, static_cast<size_t>(n));
  return n > 0;
}

bool Child::said(const std::string& text) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (text_.find(text) == std::string::npos)
    if (std::chrono::steady_clock::now() > end || !read(100)) return false;
  return true;
}

std::string Child::wait() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (read(100))
    if (std::chrono::steady_clock::now() > end) ::kill(pid_, SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return text_;
}

std::vector<Child> start_ranks(const std::string& function, int ranks, const Environment& more,
                               const std::string& test_filter) {
  std::vector<Child> out;
  const std::string port = std::to_string(free_port());
  for (int r = 0; r < ranks; ++r) {
    Environment e = {{"RANK", std::to_string(r)},       {"WORLD_SIZE", std::to_string(ranks)},
                     {"LOCAL_RANK", std::to_string(r)}, {"LOCAL_WORLD_SIZE", std::to_string(ranks)},
                     {"MASTER_ADDR", "127.0.0.1"},      {"MASTER_PORT", port}};
    for (const auto& [k, v] : more) e[k] = v;
    out.emplace_back(function, e, test_filter);
  }
  return out;
}

std::chrono::milliseconds soon(std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  Child("nothing", {}).wait();
  return std::max(
      limit, std::chrono::duration_cast<std::chrono::milliseconds>(10 * (Clock::now() - begin)));
}

int free_port() { return tcp::listen_at(0).port; }

ChildRank this_child_rank() {
  ChildRank r;
  r.rank = std::atoi(given("RANK").c_str());
  r.world_size = std::atoi(given("WORLD_SIZE").c_str());
  r.address = given("MASTER_ADDR");
  r.port = std::atoi(given("MASTER_PORT").c_str());
  return r;
}

}  // namespace nereus::test
#endif
