#include "control/world.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "base/check.h"
#include "base/shown_error.h"

namespace nereus {

using std::chrono::milliseconds;

void World::meet(const std::string& key, const std::string& what, const std::vector<int>& ranks) {
  const auto of = [&](int r) { return fmt::format("{}/{}", key, r); };
  set(of(rank()), "here");
  const milliseconds limit = timeout();
  const auto deadline = tcp::Clock::now() + limit;
  for (const int r : ranks) {
    if (r == rank()) continue;
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - tcp::Clock::now());
    try {
      get(of(r), std::max(left, milliseconds(1)));
    } catch (const Error&) {
      check();
      throw Error(
          Fault::kComm,
          fail(fmt::format("{}: rank {} of the world did not come within {:g} s: {}", what, r,
                           std::chrono::duration<double>(limit).count(), activities({r})[0])));
    }
  }
}

void World::meet_on_host() {
  std::vector<int> all(static_cast<size_t>(size()));
  std::iota(all.begin(), all.end(), 0);
  ++meetings_;
  meet(fmt::format("host/{}", meetings_), fmt::format("meeting {} of group world", meetings_), all);
}

void World::check() const {
  if (const auto note = failure()) raise(*note);
}

void World::raise(const std::string& words) const { throw Error(Fault::kComm, words); }

std::string World::give_up(const std::string& reason) { return fail(failed_text(rank(), reason)); }

std::string failed_text(int rank, const std::string& reason) {
  return fmt::format("rank {} of the world failed, which ends the others: {}", rank, reason);
}

std::string mistake_text(int rank, const std::string& reason) {
  return fmt::format("{}\n  Found by rank {} (host {}).", reason, rank, tcp::host_name());
}

void run_as_rank(World& world, const std::function<void()>& work) {
  const auto tell = [&](const std::string& reason, Fault fault = Fault::kContract) {
    const bool mistake = fault == Fault::kConfig;
    const std::string mine =
        mistake ? mistake_text(world.rank(), reason) : failed_text(world.rank(), reason);
    const std::string note = fault == Fault::kDevice
                                 ? world.lost(mine)
                                 : world.fail(mine, mistake ? fault : Fault::kComm);
    if (note != mine || world.shown()) world.raise(world.last_words());
  };
  try {
    work();
  } catch (const Error& e) {
    tell(e.what(), e.fault());
    throw;
  } catch (const std::exception& e) {
    tell(e.what());
    throw;
  } catch (...) {
    tell("an exception of unknown type");
    throw;
  }
}

namespace {

class ControlWorld final : public World {
 public:
  ControlWorld(ControlPlane& control, milliseconds timeout)
      : control_(control), timeout_ms_(timeout.count()) {}

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.world_size(); }
  void set(const std::string& key, const std::string& bytes) override { control_.set(key, bytes); }
  std::string get(const std::string& key, milliseconds timeout) override {
    return control_.get(key, timeout);
  }
  std::string take(const std::string& key, milliseconds timeout) override {
    return control_.take(key, timeout);
  }
  std::optional<std::string> failure() const override {
    const auto f = control_.failure();
    return f ? std::optional(f->text) : std::nullopt;
  }
  std::string last_words() const override {
    const auto f = control_.failure();
    if (!f) return "";
    if (!f->rank_is_gone || f->doing.empty()) return f->text;
    return fmt::format("{}\n  rank {} of the world (host {}): {}", f->text, rank(),
                       tcp::host_name(), f->doing);
  }
  std::string fail(const std::string& reason, Fault fault) override {
    return control_.fail(reason, fault).text;
  }
  void raise(const std::string& words) const override {
    const auto f = control_.failure();
    if (f && f->shown) throw ShownError(f->fault, words);
    throw Error(f && f->fault == Fault::kConfig ? f->fault : Fault::kComm, words);
  }
  bool shown() const override {
    const auto f = control_.failure();
    return f && f->shown;
  }
  std::string lost(const std::string& reason) override { return control_.lost(reason).text; }
  void set_timeout(milliseconds t) override { timeout_ms_ = t.count(); }
  milliseconds timeout() const override { return milliseconds(timeout_ms_); }
  void set_step(int64_t step) override {
    step_ = step;
    control_.set_step(step);
  }
  int64_t step() const override { return step_; }
  void describe_by(std::function<std::string()> f) override { control_.describe_by(std::move(f)); }
  std::vector<std::string> activities(const std::vector<int>& ranks) override {
    return control_.activities(ranks);
  }

 private:
  ControlPlane& control_;
  std::atomic<int64_t> timeout_ms_, step_{-1};
};

}  // namespace

std::unique_ptr<World> world_of(ControlPlane& control, milliseconds timeout) {
  return std::make_unique<ControlWorld>(control, timeout);
}

}  // namespace nereus
