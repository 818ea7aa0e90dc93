// The world of a run as one of its ranks sees it: what ranks need of each other besides their
// tensors. Tensors go between the ranks of a group, through Communicators (comm/communicator.h),
// which wait by the world's time-out, report to it, and end before it does.
//
//   keys      bytes by key, for the start: addresses, NCCL's ids
//   failures  a world ends with one note, that of its first failure, the same on all ranks; a rank
//             that meets an error says so with fail() or give_up() and ends with the note
//   time-out  how long ranks wait for one another: in every group's collectives, and in meet()
//   news      at which step each rank is and what it does, for messages about it
//
// There is always one: of processes by their control plane (world_of), of threads and of one rank
// alone through memory (local_world.h). Thread-safe, but for meet_on_host().
//
// Errors: Error{kComm} when the world has ended, and when ranks do not come in time.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/control_plane.h"

namespace nereus {

class World {
 public:
  virtual ~World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // A key is set once. get() waits until some rank has set it; take() then makes the key free
  // again, and nobody else may get it.
  virtual void set(const std::string& key, const std::string& bytes) = 0;
  virtual std::string get(const std::string& key, std::chrono::milliseconds timeout) = 0;
  virtual std::string take(const std::string& key, std::chrono::milliseconds timeout) = 0;

  // A barrier of hosts, for what is in no stream: returns when all `ranks`, of which this is one,
  // have come to `what`. No two meetings have the same key.
  void meet(const std::string& key, const std::string& what, const std::vector<int>& ranks);
  void meet_on_host();  // of all ranks, which call it in step

  // What the world ended with, and the same as an exception: Error{kComm}, or of the user's mistake
  // that a rank has found Error{kConfig}, a ShownError where one rank has shown it for all.
  virtual std::optional<std::string> failure() const = 0;
  void check() const;
  // What this rank says at the end: the note, and when it is about a rank that died, what this one
  // waited in.
  virtual std::string last_words() const { return failure().value_or(""); }
  // Ends the world with `reason`, unless it has ended: returns what it ended with.
  std::string fail(const std::string& reason) { return fail(reason, Fault::kComm); }
  virtual std::string fail(const std::string& reason, Fault) = 0;
  // After a failure: throws `words` as check() does.
  [[noreturn]] virtual void raise(const std::string& words) const;
  virtual bool shown() const { return false; }  // the failure, to the user
  // The same for what another rank's death brings about too (a connection that closed, a GPU that
  // read a dead rank's memory): a death has a second to be announced first.
  virtual std::string lost(const std::string& reason) = 0;
  // This rank cannot go on: fail() with failed_text().
  std::string give_up(const std::string& reason);

  // From the next call on, for all groups. Where ranks are threads of one process, the last who
  // sets it does so for all.
  virtual void set_timeout(std::chrono::milliseconds) = 0;
  virtual std::chrono::milliseconds timeout() const = 0;

  // The step that this rank is at; -1: not said.
  virtual void set_step(int64_t) = 0;
  virtual int64_t step() const = 0;
  // What this rank does: called on other threads, until describe_by(nullptr).
  virtual void describe_by(std::function<std::string()>) = 0;
  // What ranks did last, a little while ago; "" where nobody knows.
  virtual std::vector<std::string> activities(const std::vector<int>& ranks) = 0;

 protected:
  World() = default;

 private:
  int64_t meetings_ = 0;
};

// The note of a rank that failed by itself, and of one that found a mistake of the user's.
std::string failed_text(int rank, const std::string& reason);
std::string mistake_text(int rank, const std::string& reason);

// Calls `work`, this rank's part of the run. When it throws, the world ends before the exception
// goes on, so that the others know before anything of this rank is taken down: with give_up(), or
// for the user's mistake with its text and who found it. Where the world had ended before, that is
// the reason for whatever was thrown: what it ended with is thrown instead (raise()). It may be
// nested.
void run_as_rank(World&, const std::function<void()>& work);

// The world of the control plane's ranks; the control plane must outlive it.
std::unique_ptr<World> world_of(ControlPlane&, std::chrono::milliseconds timeout);

}  // namespace nereus
