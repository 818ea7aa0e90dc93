// The world of ranks that are threads of one process, or of one rank alone: through memory.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "control/world.h"

namespace nereus {

class LocalWorld {
 public:
  LocalWorld(int ranks, std::chrono::milliseconds timeout);
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  int size() const;
  World& rank(int) const;

  // World::fail() in two steps, for who holds a lock that waiting ranks need to look at the world:
  // note() is the failure, seen from here on, and announce() wakes those who wait.
  std::string note(const std::string& reason);
  void announce();
  bool ended() const;
  // What announce() calls after its own ranks in get() are awake: set before ranks start.
  void on_announce(std::function<void()>);

 private:
  struct State;
  class Rank;
  std::unique_ptr<State> state_;
  std::vector<std::unique_ptr<World>> ranks_;
};

}  // namespace nereus
