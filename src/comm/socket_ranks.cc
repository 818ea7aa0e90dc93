#include "comm/socket_ranks.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "base/check.h"
#include "comm/call.h"
#include "comm/host_reduce.h"
#include "comm/socket_mesh.h"

namespace nereus {
namespace {

using tcp::Clock;

constexpr uint32_t kHeader = 1, kData = 2, kMessage = 3;  // channels of a group

std::span<const std::byte> bytes_of(const std::byte* data, int64_t bytes) {
  return {data, static_cast<size_t>(bytes)};
}

// Groups are told apart by numbers that their ranks find without asking each other.
uint64_t child_id(uint64_t parent, int64_t split, int color) {
  uint64_t x = parent;
  for (const uint64_t v : {static_cast<uint64_t>(split), static_cast<uint64_t>(color)}) {
    x = (x ^ v) + 0x9e3779b97f4a7c15;  // splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    x ^= x >> 31;
  }
  return x;
}

// What all groups of a world share.
struct SocketWorld {
  SocketWorld(ControlPlane& c, std::chrono::milliseconds t)
      : control(c), mesh(c, std::max(t, std::chrono::milliseconds(1000))), timeout_ms(t.count()) {}

  ControlPlane& control;
  SocketMesh mesh;
  std::atomic<int64_t> timeout_ms, step{-1};

  void set_step(int64_t s) {
    step = s;
    const std::lock_guard lock(now->mutex);
    now->activity.step = s;
  }

  // For messages: what this rank does. Shared with the control plane, which may outlive the world.
  struct Now {
    std::mutex mutex;
    RankActivity activity;
  };
  std::shared_ptr<Now> now = std::make_shared<Now>();

  void enter(const std::string& group, const Call& call) {
    const std::lock_guard lock(now->mutex);
    now->activity.group = group;
    now->activity.call = call;
    now->activity.inside = true;
  }
  void leave() {
    const std::lock_guard lock(now->mutex);
    now->activity.inside = false;
  }
};

class SocketCommunicator final : public Communicator {
 public:
  SocketCommunicator(std::shared_ptr<SocketWorld> world, uint64_t id, std::string name,
                     std::vector<int> members, int rank)
      : Communicator(std::move(name), std::move(members), rank),
        world_(std::move(world)),
        id_(id),
        last_(count()),
        sent_(count()),
        received_(count()),
        inputs_(count()),
        taken_(count()),
        expected_(count()) {}

  void set_timeout(std::chrono::milliseconds t) override { world_->timeout_ms = t.count(); }
  void set_step(int64_t step) override {
    world_->set_step(step);
    world_->control.set_step(step);
  }
  std::string library() const override { return "sockets"; }
  void give_up(const std::string& reason) override {
    world_->control.fail(fmt::format("rank {} of the world failed, which ends the others: {}",
                                     world_->control.rank(), reason));
  }

 protected:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse) override {
    struct Choice {
      int64_t color, key;
    };
    const Choice mine{color, key};
    const std::span<const int64_t> shown(&mine.color, 2);
    meet(next(Call::Kind::split, {}), shown);
    std::vector<Choice> all(count());
    for (int r = 0; r < size(); ++r) all[index(r)] = {tables_[index(r)][0], tables_[index(r)][1]};
    std::vector<int> ranks, world_ranks;
    for (int r = 0; r < size() && color >= 0; ++r)
      if (all[index(r)].color == color) ranks.push_back(r);
    std::stable_sort(ranks.begin(), ranks.end(),
                     [&](int a, int b) { return all[index(a)].key < all[index(b)].key; });
    world_->leave();
    if (color < 0) return nullptr;
    for (const int r : ranks) world_ranks.push_back(member(r));
    const auto me = std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin();
    return std::make_unique<SocketCommunicator>(world_, child_id(id_, number_, color), name,
                                                std::move(world_ranks), static_cast<int>(me));
  }

  // Each rank sums its part of the elements and sends it to all.
  void do_all_reduce(Stream&, TensorView data, ReduceOp op) override {
    meet(next(Call::Kind::all_reduce, data, op), {});
    const int64_t n = data.count(), width = size_of(data.dtype);
    const auto at = [&](int r) { return n * r / size() * width; };
    const auto part_bytes = [&](int r) { return at(r + 1) - at(r); };
    std::byte* part = data.data + at(rank());
    const int64_t mine = part_bytes(rank());
    for (int r = 0; r < size(); ++r) exchange(r, data.data + at(r), part_bytes(r), mine);
    finish();
    host_reduce(op, data.dtype, part, inputs(part), mine / width);
    for (int r = 0; r < size(); ++r) exchange(r, part, mine, part_bytes(r));
    finish();
    for (int r = 0; r < size(); ++r) collect(r, data.data + at(r));
    world_->leave();
  }

  void do_all_gather(Stream&, TensorView out, ConstTensorView in) override {
    meet(next(Call::Kind::all_gather, in), {});
    for (int r = 0; r < size(); ++r) exchange(r, in.data, in.bytes(), in.bytes());
    copy(out.data + rank() * in.bytes(), in.data, in.bytes());
    finish();
    for (int r = 0; r < size(); ++r) collect(r, out.data + r * in.bytes());
    world_->leave();
  }

  void do_reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp op) override {
    meet(next(Call::Kind::reduce_scatter, out, op), {});
    const int64_t bytes = out.bytes();
    for (int r = 0; r < size(); ++r) exchange(r, in.data + r * bytes, bytes, bytes);
    finish();
    host_reduce(op, out.dtype, out.data, inputs(in.data + rank() * bytes), out.count());
    world_->leave();
  }

  void do_all_to_all(Stream&, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    counts_.assign(send_rows.begin(), send_rows.end());
    counts_.insert(counts_.end(), recv_rows.begin(), recv_rows.end());
    meet(next(Call::Kind::all_to_all, in), counts_);
    int64_t row = size_of(in.dtype);
    for (int i = 1; i < in.rank(); ++i) row *= in.dim(i);
    const std::byte* from = in.data;
    for (int r = 0; r < size(); ++r) {
      exchange(r, from, send_rows[index(r)] * row, recv_rows[index(r)] * row);
      if (r == rank()) mine_ = from;
      from += send_rows[index(r)] * row;
    }
    finish();
    std::byte* to = out.data;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) copy(to, mine_, send_rows[index(r)] * row);
      collect(r, to);
      to += recv_rows[index(r)] * row;
    }
    world_->leave();
  }

  void do_broadcast(Stream&, TensorView data, int root) override {
    meet(next(Call::Kind::broadcast, data, ReduceOp::sum, root), {});
    for (int r = 0; r < size(); ++r)
      exchange(r, data.data, rank() == root ? data.bytes() : 0, r == root ? data.bytes() : 0);
    finish();
    collect(root, data.data);
    world_->leave();
  }

  void do_barrier(Stream&) override {
    meet(next(Call::Kind::barrier, {}), {});
    world_->leave();
  }

  void do_send(Stream&, ConstTensorView data, int to) override {
    const Call call = Call::of(Call::Kind::send, data, ++sent_[index(to)], ReduceOp::sum, to);
    world_->enter(name(), call);
    rethrow_failure();
    const auto* shown = reinterpret_cast<const std::byte*>(&call);
    world_->mesh.send(member(to), {id_, kMessage}, {shown, sizeof call}, nullptr);
    world_->mesh.send(member(to), {id_, kMessage}, bytes_of(data.data, data.bytes()), nullptr);
    world_->leave();
  }

  void do_recv(Stream&, TensorView data, int from) override {
    call_ = Call::of(Call::Kind::recv, data, ++received_[index(from)], ReduceOp::sum, from);
    world_->enter(name(), call_);
    SocketMesh::Message shown, body;
    const auto take = [&](SocketMesh::Message& m) {
      wait(
          [&] {
            return world_->mesh.take(member(from), {id_, kMessage}, m);
          },
          [&](int r) { return r == from; });
    };
    take(shown);
    Call call;
    std::memcpy(&call, shown.data.get(), sizeof call);
    const std::string wrong = message_disagreement(name(), members(), from, rank(), call, call_);
    if (!wrong.empty()) fail(wrong);
    take(body);
    copy(data.data, body.data.get(), data.bytes());
    world_->leave();
  }

 private:
  size_t count() const { return static_cast<size_t>(size()); }
  static size_t index(int r) { return static_cast<size_t>(r); }
  int member(int r) const { return members()[index(r)]; }
  Call next(Call::Kind kind, ConstTensorView x, ReduceOp op = ReduceOp::sum, int peer = -1) {
    return Call::of(kind, x, ++number_, op, peer);
  }
  static void copy(std::byte* to, const std::byte* from, int64_t bytes) {
    if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }

  // Sends to rank r, and says how much finish() is to wait for from there.
  void exchange(int r, const std::byte* data, int64_t send_bytes, int64_t recv_bytes) {
    expected_[index(r)] = r == rank() ? 0 : recv_bytes;
    if (r != rank() && send_bytes > 0)
      world_->mesh.send(member(r), {id_, kData}, bytes_of(data, send_bytes), &unsent_);
  }
  void finish() {
    for (int r = 0; r < size(); ++r) taken_[index(r)] = expected_[index(r)] == 0;
    await_from(kData, inputs_);
    for (int r = 0; r < size(); ++r)
      NEREUS_CHECK(kComm,
                   expected_[index(r)] == 0 ||
                       inputs_[index(r)].size == static_cast<size_t>(expected_[index(r)]),
                   "{} of group {}: {} bytes came from {}, {} were expected", call_.to_string(),
                   name(), inputs_[index(r)].size, rank_text(members(), r), expected_[index(r)]);
  }
  // What finish() brought from rank r.
  void collect(int r, std::byte* to) {
    if (expected_[index(r)] > 0) copy(to, inputs_[index(r)].data.get(), expected_[index(r)]);
    inputs_[index(r)] = {};
  }
  // The same of all ranks, to be reduced; this rank's is `mine`.
  const std::vector<const std::byte*>& inputs(const std::byte* mine) {
    pointers_.clear();
    for (int r = 0; r < size(); ++r)
      pointers_.push_back(r == rank() ? mine : inputs_[index(r)].data.get());
    return pointers_;
  }

  // Shows all others what this rank calls, and waits for what they call.
  void meet(const Call& call, std::span<const int64_t> counts) {
    call_ = call;
    world_->enter(name(), call);
    rethrow_failure();
    const size_t table = 2 * count() + 2;  // of all kinds: none is cut off
    shown_.assign(sizeof(Call) + table * sizeof(int64_t), std::byte{0});
    std::memcpy(shown_.data(), &call, sizeof call);
    if (!counts.empty())
      std::memcpy(shown_.data() + sizeof call, counts.data(), counts.size_bytes());
    for (int r = 0; r < size(); ++r) {
      taken_[index(r)] = r == rank();
      if (r != rank()) world_->mesh.send(member(r), {id_, kHeader}, shown_, nullptr);
    }
    headers_.resize(count());
    await_from(kHeader, headers_);
    calls_.resize(count());
    tables_.resize(count());
    for (int r = 0; r < size(); ++r) {
      const std::byte* shown = r == rank() ? shown_.data() : headers_[index(r)].data.get();
      std::memcpy(&calls_[index(r)], shown, sizeof(Call));
      last_[index(r)] = calls_[index(r)];
      tables_[index(r)] = reinterpret_cast<const int64_t*>(shown + sizeof(Call));
    }
    std::string wrong = disagreement(name(), members(), calls_);
    if (wrong.empty() && call.kind == Call::Kind::all_to_all)
      wrong = row_disagreement(name(), members(), call, tables_);
    if (!wrong.empty()) fail(wrong);
  }

  // A message from each rank that is not yet marked in taken_, and all that was sent is gone.
  void await_from(uint32_t channel, std::vector<SocketMesh::Message>& out) {
    wait(
        [&] {
          bool all = unsent_ == 0;
          for (int r = 0; r < size(); ++r) {
            if (!taken_[index(r)])
              taken_[index(r)] =
                  world_->mesh.take(member(r), {id_, channel}, out[index(r)]) ? 1 : 0;
            all = all && taken_[index(r)] != 0;
          }
          return all;
        },
        [&](int r) { return !taken_[index(r)]; });
  }

  // Until done(). absent(r): rank r is what this one waits for.
  template <class Done, class Absent>
  void wait(Done done, Absent absent) {
    const std::chrono::milliseconds timeout(world_->timeout_ms);
    const auto hopeless = [&] {
      for (int r = 0; r < size(); ++r)
        if (r != rank() && absent(r) && world_->mesh.has_left(member(r))) return true;
      return false;
    };
    const auto outcome = world_->mesh.wait(Clock::now() + timeout, done, hopeless);
    if (outcome == SocketMesh::Outcome::done) return;
    const bool ended = outcome == SocketMesh::Outcome::hopeless;
    if (outcome == SocketMesh::Outcome::failed) {
      world_->mesh.forget();
      unsent_ = 0;
      rethrow_failure();
    }
    std::vector<MissingRank> missing;
    std::vector<int> who;
    for (int r = 0; r < size(); ++r) {
      if (r == rank() || !absent(r) || (ended && !world_->mesh.has_left(member(r)))) continue;
      const Call& last = last_[index(r)];
      missing.push_back({r, last.kind == Call::Kind::none
                                ? "it has called no collective of this group yet"
                                : "it has called nothing since " + last.to_string()});
      who.push_back(member(r));
    }
    const std::vector<std::string> told = world_->control.activities(who);
    for (size_t i = 0; i < missing.size(); ++i) {
      if (ended) missing[i].activity = "it ended";
      if (!ended && !told[i].empty()) missing[i].activity = told[i];
    }
    const double seconds = ended ? -1 : std::chrono::duration<double>(timeout).count();
    fail(time_out_message(name(), members(), call_, seconds, missing, world_->step));
  }

  void rethrow_failure() {
    if (const auto failure = world_->control.failure()) throw Error(Fault::kComm, failure->text);
  }
  [[noreturn]] void fail(const std::string& message) {
    const ControlPlane::Failure first = world_->control.fail(message);
    world_->mesh.forget();
    unsent_ = 0;
    throw Error(Fault::kComm, first.text);
  }

  std::shared_ptr<SocketWorld> world_;
  const uint64_t id_;
  int64_t number_ = 0;
  Call call_;                             // the current one
  std::vector<Call> last_;                // by rank: what it came to last
  std::vector<int64_t> sent_, received_;  // by peer
  int unsent_ = 0;
  std::vector<std::byte> shown_;
  std::vector<SocketMesh::Message> headers_, inputs_;  // by rank
  std::vector<char> taken_;
  std::vector<int64_t> expected_;
  std::vector<int64_t> counts_;
  const std::byte* mine_ = nullptr;
  std::vector<Call> calls_;
  std::vector<const int64_t*> tables_;
  std::vector<const std::byte*> pointers_;
};

}  // namespace

std::unique_ptr<Communicator> make_socket_world(ControlPlane& control,
                                                std::chrono::milliseconds timeout) {
  auto world = std::make_shared<SocketWorld>(control, timeout);
  control.describe_by([now = world->now] {
    const std::lock_guard lock(now->mutex);
    return now->activity.to_string();
  });
  std::vector<int> members(static_cast<size_t>(control.world_size()));
  for (int r = 0; r < control.world_size(); ++r) members[static_cast<size_t>(r)] = r;
  return std::make_unique<SocketCommunicator>(world, 1, "world", std::move(members),
                                              control.rank());
}

}  // namespace nereus
