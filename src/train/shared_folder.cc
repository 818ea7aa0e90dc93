#include "train/shared_folder.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string_view>
#include <thread>

#include "base/atomic_file.h"
#include "base/check.h"
#include "control/tcp.h"
#include "train/broadcast_text.h"

namespace nereus {
namespace {

bool holds(const std::string& file, const std::string& text) {
  std::FILE* const in = std::fopen(file.c_str(), "r");
  if (in == nullptr) return false;
  char read[256];
  const size_t n = std::fread(read, 1, sizeof read, in);
  std::fclose(in);
  return std::string_view(read, n) == text;
}

}  // namespace

void check_shared_folder(const std::string& folder, Communicator& all, Stream& stream,
                         std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  if (all.size() == 1) return;
  const std::string file = folder + "/.nereus.token";
  std::string token;
  if (all.rank() == 0) {
    token = fmt::format("process {} on {}, {}", ::getpid(), tcp::host_name(),
                        std::chrono::system_clock::now().time_since_epoch().count());
    const std::error_code error = replace_file(file, token);
    NEREUS_CHECK(kConfig, !error, "{}: cannot be written: {}. Choose another folder.", file,
                 error.message());
  }
  token = broadcast_text(token, 0, all, stream);
  const auto begin = Clock::now();
  while (!holds(file, token)) {
    NEREUS_CHECK(kConfig, Clock::now() - begin < limit,
                 "{} is not the same folder on all hosts: rank {} on {} does not see there what "
                 "rank 0 wrote. All ranks write checkpoints: set job.dump_folder and "
                 "checkpoint.folder to a file system that all hosts share.",
                 folder, all.rank(), tcp::host_name());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  all.barrier(stream);
  std::error_code ignored;
  if (all.rank() == 0) std::filesystem::remove(file, ignored);
}

}  // namespace nereus
