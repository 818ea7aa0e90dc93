// How the processes of a run meet, and how they learn that one of them died: a star of TCP
// connections with rank 0 in the middle, independent of what moves the tensors.
//
//   rendezvous  the constructor returns when all ranks have come, with the same version of the
//               program and the same configuration
//   set, get    bytes by key, for the start: addresses, NCCL's ids. A key is set once
//   failures    A rank whose connection closes without close() has died (kill -9 too); one that
//               gives no sign of life for `silence` hangs, or its host does. All ranks get one
//               note, the first, with the rank, its host and its last step; a rank that meets an
//               error by itself reports it with fail() and ends with what the world ends with.
//
// Rank 0's process serves, on one thread, in addition to one thread in every rank that listens and
// beats. What it costs: docs/operations.md.
//
// Errors: Error{kConfig} for versions, configurations or numbers of ranks that differ, a port in
// use and an unknown host; Error{kComm} for ranks that do not come or have died; of a rank that
// failed before (options.failed), its own on all ranks. ShownError where rank 0 has shown it.
// Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "control/control_options.h"
#include "control/tcp.h"

namespace nereus {

class ControlServer;

class ControlPlane {
 public:
  // Rank 0 listens at options.port, or at `listener` where there is one.
  explicit ControlPlane(const ControlPlaneOptions&, tcp::Listener listener = {});
  // Without close(), the other ranks learn that this one ended early.
  ~ControlPlane();
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  int rank() const;
  int world_size() const;
  int local_rank() const;  // among the ranks of this host, by rank
  int local_world_size() const;
  int hosts() const;
  std::string local_address() const;  // this host's address, as other hosts reach it

  void set(const std::string& key, const std::string& bytes);
  std::string get(const std::string& key, std::chrono::milliseconds timeout);
  // get(), and the key is free again: nobody else may get it.
  std::string take(const std::string& key, std::chrono::milliseconds timeout);

  void set_step(int64_t);  // for messages
  // What this rank does, for messages: asked once a beat, and at the world's failure. It must not
  // call the control plane.
  void describe_by(std::function<std::string()>);
  // What the ranks of the world did last, as of their last beat; "" where nobody knows.
  std::vector<std::string> activities(const std::vector<int>& ranks);

  struct Failure {
    Fault fault = Fault::kComm;
    std::string text = {};      // the same on all ranks
    bool rank_is_gone = false;  // it died, or gives no sign of life
    bool shown = false;         // to the user, by rank 0
    std::string doing = {};     // what this rank did when it learned of that, by describe_by()
  };
  std::optional<Failure> failure() const;
  // Called once, on the control plane's thread (here and now when it has happened): the world is
  // over. It must not call the control plane.
  void on_failure(std::function<void(const Failure&)>);
  // The world is over, for `reason`, unless it is already: returns what all ranks end with.
  Failure fail(const std::string& reason, Fault = Fault::kComm);
  // A peer's connection was lost: its death will be announced. Returns the note, or reports
  // `reason` when none comes within a second.
  Failure lost(const std::string& reason);

  // This rank's work is done. All ranks stay until all have said so, since a launcher may end the
  // rest with the first whose exit code is not 0; a world that fails meanwhile is not this rank's
  // concern any more, and it stays no longer.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
