#include "control/local_world.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>

#include "base/check.h"

namespace nereus {

using std::chrono::milliseconds;

struct LocalWorld::State {
  struct Member {
    std::function<std::string()> describe;
    std::atomic<int64_t> step{-1};
  };
  State(int ranks, milliseconds timeout)
      : timeout_ms(timeout.count()), members(static_cast<size_t>(ranks)) {}

  std::atomic<int64_t> timeout_ms;
  std::atomic<bool> ended{false};
  std::function<void()> announce;  // set before ranks start
  std::mutex mutex;                // of what follows, but for the steps
  std::condition_variable changed;
  std::map<std::string, std::string> values;
  std::string reason;
  std::deque<Member> members;
};

class LocalWorld::Rank final : public World {
 public:
  Rank(LocalWorld& world, int rank) : world_(world), state_(*world.state_), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return world_.size(); }
  void set(const std::string& key, const std::string& bytes) override {
    const std::lock_guard lock(state_.mutex);
    state_.values[key] = bytes;
    state_.changed.notify_all();
  }
  std::string get(const std::string& key, milliseconds timeout) override {
    std::unique_lock lock(state_.mutex);
    return wait_for(key, timeout, lock);
  }
  std::string take(const std::string& key, milliseconds timeout) override {
    std::unique_lock lock(state_.mutex);
    wait_for(key, timeout, lock);
    return std::move(state_.values.extract(key).mapped());
  }
  std::optional<std::string> failure() const override {
    if (!state_.ended) return std::nullopt;
    const std::lock_guard lock(state_.mutex);
    return state_.reason;
  }
  std::string fail(const std::string& reason, Fault) override {
    const std::string first = world_.note(reason);
    world_.announce();
    return first;
  }
  std::string lost(const std::string& reason) override { return fail(reason, Fault::kComm); }
  void set_timeout(milliseconds t) override { state_.timeout_ms = t.count(); }
  milliseconds timeout() const override { return milliseconds(state_.timeout_ms); }
  void set_step(int64_t step) override { member(rank_).step = step; }
  int64_t step() const override { return member(rank_).step; }
  void describe_by(std::function<std::string()> f) override {
    const std::lock_guard lock(state_.mutex);
    member(rank_).describe = std::move(f);
  }
  std::vector<std::string> activities(const std::vector<int>& ranks) override {
    std::vector<std::string> out;
    const std::lock_guard lock(state_.mutex);
    for (const int r : ranks) out.push_back(member(r).describe ? member(r).describe() : "");
    return out;
  }

 private:
  const std::string& wait_for(const std::string& key, milliseconds timeout,
                              std::unique_lock<std::mutex>& lock) const {
    state_.changed.wait_for(lock, timeout,
                            [&] { return state_.ended || state_.values.contains(key); });
    if (state_.ended) throw Error(Fault::kComm, state_.reason);
    NEREUS_CHECK(kComm, state_.values.contains(key),
                 "rank {} waited {:g} s for {}, which no rank has set", rank_,
                 std::chrono::duration<double>(timeout).count(), key);
    return state_.values.at(key);
  }
  State::Member& member(int r) const { return state_.members[static_cast<size_t>(r)]; }

  LocalWorld& world_;
  State& state_;
  const int rank_;
};

LocalWorld::LocalWorld(int ranks, milliseconds timeout)
    : state_(std::make_unique<State>(ranks, timeout)) {
  for (int r = 0; r < ranks; ++r) ranks_.push_back(std::make_unique<Rank>(*this, r));
}
LocalWorld::~LocalWorld() = default;

int LocalWorld::size() const { return static_cast<int>(state_->members.size()); }
World& LocalWorld::rank(int r) const { return *ranks_[static_cast<size_t>(r)]; }
bool LocalWorld::ended() const { return state_->ended; }
void LocalWorld::on_announce(std::function<void()> f) { state_->announce = std::move(f); }

std::string LocalWorld::note(const std::string& reason) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->ended) state_->reason = reason;
  state_->ended = true;
  return state_->reason;
}

void LocalWorld::announce() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->changed.notify_all();
  }
  if (state_->announce) state_->announce();
}

}  // namespace nereus
