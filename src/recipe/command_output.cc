#include "recipe/command_output.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/check.h"

namespace nereus::recipe {
namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

// Reads both pipes until they close; false when the time is over first.
bool read_all(std::array<pollfd, 2> fds, std::array<std::string*, 2> texts, int seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) return false;
    if (poll(fds.data(), fds.size(), static_cast<int>(left)) < 0 && errno != EINTR) return false;
    for (size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      char buffer[65536];
      const ssize_t n = read(fds[i].fd, buffer, sizeof buffer);
      if (n > 0)
        texts[i]->append(buffer, static_cast<size_t>(n));
      else if (n == 0 || errno != EINTR)
        fds[i].fd = -1;
    }
  }
  return true;
}

}  // namespace

CommandOutput run_command(const std::vector<std::string>& words, const Variables& environment,
                          const std::string& folder, int seconds) {
  CommandOutput result;
  std::vector<std::string> arguments = words, settings;
  const std::string program = find_program(words[0], environment);
  if (program.empty()) return {127, "", words[0] + ": not found in PATH"};
  for (const auto& [key, value] : environment) settings.push_back(key + "=" + value);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(settings);
  int out[2], err[2];
  NEREUS_CHECK(kIo, pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0, "no pipe for {}: {}",
               words[0], std::strerror(errno));
  const pid_t child = fork();
  NEREUS_CHECK(kIo, child >= 0, "{} cannot be started: {}", words[0], std::strerror(errno));
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    dup2(out[1], 1);
    dup2(err[1], 2);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, 0);
    if (!folder.empty() && chdir(folder.c_str()) != 0) _exit(126);
    execve(program.c_str(), argv.data(), envp.data());
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  const bool whole = read_all({pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}},
                              {&result.out, &result.err}, seconds);
  close(out[0]);
  close(err[0]);
  if (!whole) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (!whole) {
    result.code = kTookTooLong;
    if (!result.err.empty() && result.err.back() != '\n') result.err += '\n';
    result.err += fmt::format("{} did not answer within {} s", words[0], seconds);
  }
  while (!result.err.empty() && result.err.back() == '\n') result.err.pop_back();
  return result;
}

Variables process_environment() {
  Variables out;
  for (char** entry = environ; *entry; ++entry) {
    const std::string word = *entry;
    const size_t at = word.find('=');
    if (at != std::string::npos) out[word.substr(0, at)] = word.substr(at + 1);
  }
  return out;
}

std::string find_program(const std::string& name, const Variables& environment) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  const auto path = environment.find("PATH");
  const std::string folders = path == environment.end() ? "/usr/bin:/bin" : path->second;
  for (size_t begin = 0; begin <= folders.size();) {
    const size_t end = std::min(folders.find(':', begin), folders.size());
    const std::string file = folders.substr(begin, end - begin) + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return "";
}

std::string quoted(const std::string& word) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string quoted(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + quoted(word);
  return out;
}

}  // namespace nereus::recipe
