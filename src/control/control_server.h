// The middle of the control plane's star: one thread of rank 0's process.
#pragma once

#include <memory>

#include "control/control_options.h"
#include "control/tcp.h"

namespace nereus {

class ControlServer {
 public:
  // Serves at `listener` from here on.
  ControlServer(const ControlPlaneOptions&, tcp::Listener listener);
  // Returns when every rank has left, or has been told that the world failed. Those that have not
  // come by then have ten seconds to come and be told, but no longer than rendezvous_timeout.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
