#include "comm/thread_ranks.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "comm/call.h"
#include "comm/host_bytes.h"
#include "comm/host_reduce.h"
#include "comm/split.h"
#include "control/local_world.h"

namespace nereus {
namespace {

using Clock = std::chrono::steady_clock;

struct ThreadGroup;

// What all groups of one run share: the world, and what each rank is doing.
struct ThreadWorld {
  ThreadWorld(int ranks, std::chrono::milliseconds timeout)
      : local(ranks, timeout), activities(static_cast<size_t>(ranks)) {
    local.on_announce([this] { wake_all(); });
    for (int r = 0; r < ranks; ++r)
      local.rank(r).describe_by([this, r] { return activity(r).to_string(); });
  }

  RankActivity activity(int rank) {
    return activities[static_cast<size_t>(rank)].at(local.rank(rank).step());
  }
  void enter(int rank, const std::string& group, const Call& call) {
    activities[static_cast<size_t>(rank)].enter(group, call);
  }
  void leave(int rank) { activities[static_cast<size_t>(rank)].leave(); }

  void wake_all();
  void end(int rank);  // the rank's work is over: who waits for it learns so
  // The rank's work ended with an exception, which is kept where it is what ended the world.
  void end_all(int rank, const std::string& reason, const std::exception_ptr& error);
  [[noreturn]] void rethrow() {
    local.rank(0).check();
    NEREUS_FAIL(kContract, "the world has not ended");
  }

  LocalWorld local;
  std::atomic<int> ended{0};  // ranks
  std::deque<CurrentActivity> activities;

  std::mutex mutex;  // of what follows; may be taken under a group's, not the other way round
  std::exception_ptr first_error;
  std::vector<std::weak_ptr<ThreadGroup>> groups;
};

struct Message {
  Call call;
  std::vector<std::byte> bytes;
};

// One group: a rendezvous of all its ranks, and mail between two of them.
struct ThreadGroup {
  struct Slot {
    Call call;
    bool here = false;
    const std::byte* in = nullptr;
    std::byte* out = nullptr;
    const int64_t* counts = nullptr;  // all_to_all: send_rows, then recv_rows
    SplitChoice choice = {};
  };

  ThreadGroup(ThreadWorld& w, std::string n, std::vector<int> m)
      : world(w), name(std::move(n)), members(std::move(m)), slots(members.size()) {}

  ThreadWorld& world;
  const std::string name;
  const std::vector<int> members;

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Slot> slots;
  size_t arrived = 0, left = 0;
  uint64_t meetings = 0, partings = 0;
  std::map<std::pair<int, int>, std::deque<Message>> mail;  // (from, to)
  std::vector<std::vector<std::byte>> spare;                // mail's memory, used again
  std::map<int, std::shared_ptr<ThreadGroup>> children;     // of the current split, by color
};

void ThreadWorld::wake_all() {
  std::vector<std::shared_ptr<ThreadGroup>> alive;
  {
    const std::lock_guard lock(mutex);
    for (const auto& g : groups)
      if (auto group = g.lock()) alive.push_back(std::move(group));
  }
  for (const auto& group : alive) {
    const std::lock_guard lock(group->mutex);  // nobody is between looking and sleeping
    group->changed.notify_all();
  }
}

void ThreadWorld::end_all(int rank, const std::string& reason, const std::exception_ptr& error) {
  const std::string text = failed_text(rank, reason);
  if (local.note(text) == text) {
    const std::lock_guard lock(mutex);
    if (!first_error) first_error = error;
  }
  local.announce();
}

void ThreadWorld::end(int rank) {
  activities[static_cast<size_t>(rank)].end();
  ++ended;
  wake_all();
}

// Blocks of one process's memory. Each rank keeps all of them alive: one that fails must not take
// away what another reads.
class ThreadWindow final : public Window {
 public:
  ThreadWindow(Communicator& group, Stream& stream, int64_t bytes)
      : group_(group),
        memory_(std::make_shared<Buffer>(stream.device(), bytes, "a window")),
        addresses_(stream.device(), 8 * group.size(), "addresses of a window's blocks") {
    const int ranks = group.size();
    data_ = memory_->data();
    bytes_ = bytes;
    const TensorView all(addresses_.data(), DType::i64, {ranks});
    bases_ = all;
    int64_t mine[3] = {bytes, reinterpret_cast<int64_t>(&memory_),
                       reinterpret_cast<int64_t>(memory_->data())};
    std::vector<int64_t> sizes(static_cast<size_t>(ranks)), owners(sizes);
    group.all_gather(stream, view(sizes.data(), ranks), view(mine, 1));
    for (int r = 0; r < ranks; ++r)
      NEREUS_CHECK(kComm, sizes[static_cast<size_t>(r)] == bytes,
                   "window of group {}: {} bytes on rank {}, {} on rank {}", group.name(), bytes,
                   group.rank(), sizes[static_cast<size_t>(r)], r);
    group.all_gather(stream, view(owners.data(), ranks), view(mine + 1, 1));
    for (const int64_t owner : owners)
      kept_.push_back(*reinterpret_cast<const std::shared_ptr<Buffer>*>(owner));
    group.all_gather(stream, all, view(mine + 2, 1));  // nobody goes before all have theirs
  }
  void meet(Stream& stream) override { group_.barrier(stream); }

 private:
  static TensorView view(int64_t* data, int64_t n) {
    return TensorView(reinterpret_cast<std::byte*>(data), DType::i64, {n});
  }

  Communicator& group_;
  std::shared_ptr<Buffer> memory_;
  std::vector<std::shared_ptr<Buffer>> kept_;
  Buffer addresses_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : Communicator(group->name, group->members, rank), group_(std::move(group)), calls_(size()) {}

  std::string library() const override { return "threads"; }

 protected:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse) override {
    Part mine;
    meet({.call = calls_.collective(Call::Kind::split), .choice = {color, key}}, [&] {
      std::vector<SplitChoice> choices;
      for (int r = 0; r < size(); ++r) choices.push_back(slot(r).choice);
      mine = part_of(choices, rank(), members());
      if (color < 0 || mine.rank != 0) return;  // its first rank makes it
      auto child = std::make_shared<ThreadGroup>(world(), name, std::move(mine.members));
      {
        const std::lock_guard lock(world().mutex);
        std::erase_if(world().groups, [](const auto& g) { return g.expired(); });
        world().groups.push_back(child);
      }
      const std::lock_guard lock(group_->mutex);
      group_->children[color] = std::move(child);
    });
    std::unique_ptr<Communicator> out;
    if (color >= 0) {
      const std::lock_guard lock(group_->mutex);
      out = std::make_unique<ThreadCommunicator>(group_->children[color], mine.rank);
    }
    meet({.call = calls_.collective(Call::Kind::split)}, [&] {
      if (rank() != 0) return;  // all have their group
      const std::lock_guard lock(group_->mutex);
      group_->children.clear();
    });
    return out;
  }

  // Each rank sums its part of the elements for all.
  void do_all_reduce(Stream&, TensorView data, ReduceOp op) override {
    meet({.call = calls_.collective(Call::Kind::all_reduce, data, op), .out = data.data}, [&] {
      const int64_t n = data.count();
      const int64_t begin = n * rank() / size(), end = n * (rank() + 1) / size();
      const int64_t offset = begin * size_of(data.dtype);
      std::vector<const std::byte*>& inputs = pointers();
      for (int r = 0; r < size(); ++r) inputs.push_back(slot(r).out + offset);
      host_reduce(op, data.dtype, data.data + offset, inputs, end - begin);
      for (int r = 0; r < size(); ++r)
        copy_bytes(slot(r).out + offset, data.data + offset, (end - begin) * size_of(data.dtype));
    });
  }

  void do_all_gather(Stream&, TensorView out, ConstTensorView in) override {
    meet({.call = calls_.collective(Call::Kind::all_gather, in), .in = in.data}, [&] {
      for (int r = 0; r < size(); ++r)
        copy_bytes(out.data + r * in.bytes(), slot(r).in, in.bytes());
    });
  }

  void do_reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp op) override {
    meet({.call = calls_.collective(Call::Kind::reduce_scatter, out, op), .in = in.data}, [&] {
      std::vector<const std::byte*>& inputs = pointers();
      for (int r = 0; r < size(); ++r) inputs.push_back(slot(r).in + rank() * out.bytes());
      host_reduce(op, out.dtype, out.data, inputs, out.count());
    });
  }

  void do_all_to_all(Stream&, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    counts_.assign(send_rows.begin(), send_rows.end());
    counts_.insert(counts_.end(), recv_rows.begin(), recv_rows.end());
    const int64_t row = row_bytes(in);
    meet({.call = calls_.collective(Call::Kind::all_to_all, in),
          .in = in.data,
          .counts = counts_.data()},
         [&] {
           std::byte* to = out.data;
           for (int r = 0; r < size(); ++r) {
             const std::span<const int64_t> sent(slot(r).counts, static_cast<size_t>(size()));
             int64_t before = 0;
             for (int i = 0; i < rank(); ++i) before += sent[static_cast<size_t>(i)];
             const int64_t bytes = sent[static_cast<size_t>(rank())] * row;
             copy_bytes(to, slot(r).in + before * row, bytes);
             to += bytes;
           }
         });
  }

  void do_broadcast(Stream&, TensorView data, int root) override {
    meet({.call = calls_.collective(Call::Kind::broadcast, data, ReduceOp::sum, root),
          .in = data.data},
         [&] { copy_bytes(data.data, slot(root).in, data.bytes()); });
  }

  void do_barrier(Stream&) override {
    meet({.call = calls_.collective(Call::Kind::barrier)}, [] {});
  }

  bool shares_memory() const override { return true; }
  std::unique_ptr<Window> do_window(Stream& s, int64_t bytes) override {
    return std::make_unique<ThreadWindow>(*this, s, bytes);
  }

  void do_send(Stream&, ConstTensorView data, int to) override {
    const Call call = calls_.send(data, to);
    world().enter(me(), name(), call);
    if (world().local.ended()) world().rethrow();
    Message message{.call = call, .bytes = {}};
    {
      const std::lock_guard lock(group_->mutex);
      if (!group_->spare.empty()) {
        message.bytes = std::move(group_->spare.back());
        group_->spare.pop_back();
      }
    }
    message.bytes.assign(data.data, data.data + data.bytes());
    {
      const std::lock_guard lock(group_->mutex);
      group_->mail[{rank(), to}].push_back(std::move(message));
      group_->changed.notify_all();
    }
    world().leave(me());
  }

  void do_recv(Stream&, TensorView data, int from) override {
    const Call call = calls_.recv(data, from);
    world().enter(me(), name(), call);
    std::unique_lock lock(group_->mutex);
    std::deque<Message>& box = group_->mail[{from, rank()}];
    wait(
        lock, call, [&] { return !box.empty(); }, [&](int r) { return r == from; });
    Message message = std::move(box.front());
    box.pop_front();
    const std::string wrong =
        message_disagreement(name(), members(), from, rank(), message.call, call);
    if (!wrong.empty()) fail(lock, wrong);
    lock.unlock();
    copy_bytes(data.data, message.bytes.data(), data.bytes());
    world().leave(me());
    lock.lock();
    group_->spare.push_back(std::move(message.bytes));
  }

 private:
  ThreadWorld& world() const { return group_->world; }
  ThreadGroup::Slot& slot(int r) const { return group_->slots[static_cast<size_t>(r)]; }
  int me() const { return members()[static_cast<size_t>(rank())]; }

  std::vector<const std::byte*>& pointers() {
    pointers_.clear();
    return pointers_;
  }

  // The failure is noted before the mutex is let go: who comes later must not find this rank, which
  // has left, among those who are here.
  [[noreturn]] void fail(std::unique_lock<std::mutex>& lock, const std::string& message) {
    world().local.note(message);
    lock.unlock();
    world().local.announce();
    world().rethrow();
  }

  // Under `lock`, until done(). absent(r): rank r is what this one waits for.
  template <class Done, class Absent>
  void wait(std::unique_lock<std::mutex>& lock, const Call& call, Done done, Absent absent) {
    const std::chrono::milliseconds timeout = world().local.rank(me()).timeout();
    const auto deadline = Clock::now() + timeout;
    bool late = false;
    for (;;) {
      if (done()) return;  // first: what has come is taken, also from a rank that failed since
      if (world().local.ended()) {
        lock.unlock();
        world().rethrow();
      }
      std::vector<MissingRank> missing;
      bool ended = false;
      for (int r = 0; r < size() && (late || world().ended > 0); ++r) {
        if (r == rank() || !absent(r)) continue;
        const RankActivity a = world().activity(members()[static_cast<size_t>(r)]);
        ended = ended || a.ended;
        if (late || a.ended) missing.push_back({r, a.to_string()});
      }
      if (late || ended) {
        const double seconds = late ? std::chrono::duration<double>(timeout).count() : -1;
        fail(lock, time_out_message(name(), members(), call, seconds, missing,
                                    world().activity(me()).step));
      }
      late = group_->changed.wait_until(lock, deadline) == std::cv_status::timeout;
    }
  }

  // All ranks come, show what they call and where their memory is, do `work`, which may read the
  // others' memory, and leave together.
  template <class Work>
  void meet(ThreadGroup::Slot mine, Work work) {
    world().enter(me(), name(), mine.call);
    std::unique_lock lock(group_->mutex);
    if (world().local.ended()) {
      lock.unlock();
      world().rethrow();
    }
    mine.here = true;
    slot(rank()) = mine;
    const uint64_t meeting = group_->meetings;
    if (++group_->arrived == group_->slots.size()) {
      const std::string wrong = compare();
      if (!wrong.empty()) fail(lock, wrong);
      group_->arrived = 0;
      for (ThreadGroup::Slot& s : group_->slots) s.here = false;
      ++group_->meetings;
      group_->changed.notify_all();
    } else {
      wait(
          lock, mine.call, [&] { return group_->meetings != meeting; },
          [&](int r) { return !slot(r).here; });
    }
    lock.unlock();
    std::exception_ptr error;
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    // All are here and none waits inside `work`, so all will leave: no time-out. Nobody goes before
    // the last has read.
    lock.lock();
    const uint64_t parting = group_->partings;
    if (++group_->left == group_->slots.size()) {
      group_->left = 0;
      ++group_->partings;
      group_->changed.notify_all();
    } else {
      group_->changed.wait(lock, [&] { return group_->partings != parting; });
    }
    lock.unlock();
    if (error) std::rethrow_exception(error);
    world().leave(me());
  }

  std::string compare() {
    std::vector<Call> calls;
    std::vector<const int64_t*> counts;
    for (const ThreadGroup::Slot& s : group_->slots) {
      calls.push_back(s.call);
      counts.push_back(s.counts);
    }
    const std::string wrong = disagreement(name(), members(), calls);
    if (!wrong.empty() || calls[0].kind != Call::Kind::all_to_all) return wrong;
    return row_disagreement(name(), members(), calls[0], counts);
  }

  std::shared_ptr<ThreadGroup> group_;
  CallCounter calls_;
  std::vector<int64_t> counts_;
  std::vector<const std::byte*> pointers_;
};

}  // namespace

void run_thread_ranks(int ranks, const ThreadRanksOptions& options,
                      FunctionRef<void(Communicator&)> work) {
  run_thread_world(ranks, options, [&](Communicator& all, World&) { work(all); });
}

void run_thread_world(int ranks, const ThreadRanksOptions& options,
                      FunctionRef<void(Communicator&, World&)> work) {
  NEREUS_CHECK(kContract, ranks >= 1, "a world of {} ranks; at least 1 is needed", ranks);
  ThreadWorld world(ranks, options.timeout);
  std::vector<int> members(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) members[static_cast<size_t>(r)] = r;
  const auto group = std::make_shared<ThreadGroup>(world, "world", members);
  world.groups.push_back(group);

  std::vector<std::thread> threads;
  const auto run = [&](int rank) {
    ThreadCommunicator communicator(group, rank);
    try {
      work(communicator, world.local.rank(rank));
    } catch (const std::exception& e) {
      world.end_all(rank, e.what(), std::current_exception());
    } catch (...) {
      world.end_all(rank, "an exception of unknown type", std::current_exception());
    }
    world.end(rank);
  };
  try {
    if (ranks == 1) run(0);
    for (int r = 0; r < ranks && ranks > 1; ++r) threads.emplace_back(run, r);
  } catch (const std::system_error& e) {
    world.local.rank(0).fail(fmt::format("{} of {} ranks could be started as threads: {}",
                                         threads.size(), ranks, e.what()));
  }
  for (std::thread& t : threads) t.join();
  if (world.first_error) std::rethrow_exception(world.first_error);
  world.local.rank(0).check();
}

}  // namespace nereus
