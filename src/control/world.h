// What a rank that works on a GPU needs of the others besides their tensors: bytes at the start,
// and news of failures. Ranks may be processes (the control plane) or threads (memory).
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
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual void set(const std::string& key, const std::string& bytes) = 0;
  virtual std::string get(const std::string& key, std::chrono::milliseconds timeout) = 0;
  // What the world ended with; the first note is everybody's.
  virtual std::optional<std::string> failure() const = 0;
  virtual std::string fail(const std::string& reason) = 0;
  virtual void set_step(int64_t) = 0;
  // What this rank does, and what others do; see ControlPlane.
  virtual void describe_by(std::function<std::string()>) = 0;
  virtual std::vector<std::string> activities(const std::vector<int>& ranks) = 0;
};

std::unique_ptr<World> world_of(ControlPlane&);  // which must outlive them

// World of all ranks of one process, by rank.
std::vector<std::unique_ptr<World>> worlds_in_memory(int ranks);

}  // namespace nereus
