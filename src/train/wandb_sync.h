// Sends an offline run of W&B by the program that W&B has for it. The key goes from this process's
// environment (or ~/.netrc) to the child's, and nowhere else.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

namespace nereus {

// The path of a program in PATH; "": there is none.
std::string find_program(const std::string& name);

struct WandbSync {
  bool ended = false;  // false: it goes on after `limit`, in a session of its own
  int code = -1;       // its exit code; 128 + a signal; -1: it could not be started
  pid_t process = -1;
  std::string output;  // the file that has what it says
};

// `wandb sync` of the folders of all starts of run `id` in `folder`, in their order.
WandbSync wandb_sync(const std::string& folder, const std::string& id,
                     std::chrono::milliseconds limit);

}  // namespace nereus
