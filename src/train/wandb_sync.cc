#include "train/wandb_sync.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include "base/files.h"

extern char** environ;

namespace nereus {

namespace fs = std::filesystem;

std::string find_program(const std::string& name) {
  const char* const path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (const fs::path file = fs::path(folder) / name;
        !is_folder(file) && ::access(file.c_str(), X_OK) == 0)
      return file;
  return "";
}

WandbSync wandb_sync(const std::string& folder, const std::string& id,
                     std::chrono::milliseconds limit) {
  WandbSync sync{.output = folder + "/sync-" + id + ".log"};
  std::vector<std::string> words = {find_program("wandb"), "sync"};
  std::error_code error;
  for (const auto& entry : entries_of(folder, error))
    if (entry.path().filename().string().ends_with("-" + id)) words.push_back(entry.path());
  std::sort(words.begin() + 2, words.end());
  std::vector<char*> arguments;
  for (std::string& w : words) arguments.push_back(w.data());
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, sync.output.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0666);
  ::posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  const int failed = ::posix_spawn(&sync.process, words[0].c_str(), &files, &attributes,
                                   arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  sync.ended = failed != 0;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!sync.ended && std::chrono::steady_clock::now() < end) {
    int status = 0;
    sync.ended = ::waitpid(sync.process, &status, WNOHANG) == sync.process;
    if (sync.ended) sync.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (!sync.ended) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return sync;
}

}  // namespace nereus
