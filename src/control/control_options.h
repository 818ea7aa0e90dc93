// How a rank finds the control plane, what it must have in common with the others, and how long it
// waits: what both sides of the star need to know.
#pragma once

#include <chrono>
#include <string>

namespace nereus {

struct ControlPlaneOptions {
  int rank = 0, world_size = 1;
  std::string address;        // rank 0's host, as MASTER_ADDR names it
  int port = 0;               // where rank 0 listens
  std::string run_id;         // runs that meet by mistake tell each other apart
  std::string version;        // of the program; must be equal
  std::string configuration;  // lines of "key=value"; must be equal. No secrets: keys are shown
  std::chrono::milliseconds rendezvous_timeout{300'000};
  std::chrono::milliseconds heartbeat{1'000};
  std::chrono::milliseconds silence{30'000};  // of a rank that is taken to hang
};

}  // namespace nereus
