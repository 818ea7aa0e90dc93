#include "control/world.h"

#include <condition_variable>
#include <map>
#include <mutex>

#include "base/check.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;

class ControlWorld final : public World {
 public:
  explicit ControlWorld(ControlPlane& control) : control_(control) {}
  int rank() const override { return control_.rank(); }
  int world_size() const override { return control_.world_size(); }
  void set(const std::string& key, const std::string& bytes) override { control_.set(key, bytes); }
  std::string get(const std::string& key, milliseconds timeout) override {
    return control_.get(key, timeout);
  }
  std::optional<std::string> failure() const override {
    const auto f = control_.failure();
    return f ? std::optional(f->text) : std::nullopt;
  }
  std::string fail(const std::string& reason) override { return control_.fail(reason).text; }
  void set_step(int64_t step) override { control_.set_step(step); }
  void describe_by(std::function<std::string()> f) override { control_.describe_by(std::move(f)); }
  std::vector<std::string> activities(const std::vector<int>& ranks) override {
    return control_.activities(ranks);
  }

 private:
  ControlPlane& control_;
};

struct Memory {
  explicit Memory(int ranks) : describe(static_cast<size_t>(ranks)) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::string> values;
  std::optional<std::string> failure;
  std::vector<std::function<std::string()>> describe;
};

class MemoryWorld final : public World {
 public:
  MemoryWorld(std::shared_ptr<Memory> memory, int rank) : memory_(std::move(memory)), rank_(rank) {}
  int rank() const override { return rank_; }
  int world_size() const override { return static_cast<int>(memory_->describe.size()); }
  void set(const std::string& key, const std::string& bytes) override {
    const std::lock_guard lock(memory_->mutex);
    memory_->values[key] = bytes;
    memory_->changed.notify_all();
  }
  std::string get(const std::string& key, milliseconds timeout) override {
    std::unique_lock lock(memory_->mutex);
    memory_->changed.wait_for(lock, timeout,
                              [&] { return memory_->failure || memory_->values.contains(key); });
    if (memory_->failure) throw Error(Fault::kComm, *memory_->failure);
    NEREUS_CHECK(kComm, memory_->values.contains(key),
                 "rank {} waited {:g} s for {}, which no rank has set", rank_,
                 std::chrono::duration<double>(timeout).count(), key);
    return memory_->values[key];
  }
  std::optional<std::string> failure() const override {
    const std::lock_guard lock(memory_->mutex);
    return memory_->failure;
  }
  std::string fail(const std::string& reason) override {
    const std::lock_guard lock(memory_->mutex);
    if (!memory_->failure) memory_->failure = reason;
    memory_->changed.notify_all();
    return *memory_->failure;
  }
  void set_step(int64_t) override {}
  void describe_by(std::function<std::string()> f) override {
    const std::lock_guard lock(memory_->mutex);
    memory_->describe[static_cast<size_t>(rank_)] = std::move(f);
  }
  std::vector<std::string> activities(const std::vector<int>& ranks) override {
    std::vector<std::string> out;
    const std::lock_guard lock(memory_->mutex);
    for (const int r : ranks) {
      const auto& describe = memory_->describe[static_cast<size_t>(r)];
      out.push_back(describe ? describe() : "");
    }
    return out;
  }

 private:
  std::shared_ptr<Memory> memory_;
  int rank_;
};

}  // namespace

std::unique_ptr<World> world_of(ControlPlane& control) {
  return std::make_unique<ControlWorld>(control);
}

std::vector<std::unique_ptr<World>> worlds_in_memory(int ranks) {
  const auto memory = std::make_shared<Memory>(ranks);
  std::vector<std::unique_ptr<World>> out;
  for (int r = 0; r < ranks; ++r) out.push_back(std::make_unique<MemoryWorld>(memory, r));
  return out;
}

}  // namespace nereus
