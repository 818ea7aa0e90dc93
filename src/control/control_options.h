// How a rank finds the control plane, what it must have in common with the others, and how long it
// waits: what both sides of the star need to know.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "base/error.h"

namespace nereus {

struct ControlPlaneOptions {
  int rank = 0, world_size = 1;
  std::string address;        // rank 0's host, as MASTER_ADDR names it
  int port = 0;               // where rank 0 listens
  std::string run_id;         // runs that meet by mistake tell each other apart
  std::string version;        // of the program; must be equal
  std::string configuration;  // lines of "key=value"; must be equal. No secrets: keys are shown
  std::chrono::milliseconds rendezvous_timeout{300'000};
  std::chrono::milliseconds name_timeout{30'000};  // for a name server to learn rank 0's name
  std::chrono::milliseconds heartbeat{1'000};
  std::chrono::milliseconds silence{30'000};  // of a rank that is taken to hang
  // This rank has failed before the ranks have met, and comes to end the world with it.
  std::optional<Error> failed = {};
  // Of rank 0: shows the user's mistake (Fault::kConfig) that ends the world, before any rank
  // learns of it; ranks then end with a ShownError. Called once at most, on the server's thread.
  std::function<void(const std::string& text)> show = {};
};

}  // namespace nereus
