#include "comm/pairwise_ranks.h"

#include <cstring>
#include <exception>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "comm/host_bytes.h"
#include "comm/host_reduce.h"
#include "comm/split.h"
#include "tensor/format.h"

namespace nereus {
namespace {

// What all groups of a world share: what this rank does, for messages.
class PairwiseWorld {
 public:
  explicit PairwiseWorld(World& w) : world(w) {
    world.describe_by([this] { return activity.at(world.step()).to_string(); });
  }
  ~PairwiseWorld() { world.describe_by(nullptr); }
  PairwiseWorld(const PairwiseWorld&) = delete;
  PairwiseWorld& operator=(const PairwiseWorld&) = delete;

  World& world;
  CurrentActivity activity;
};

class PairwiseRanks final : public Communicator {
 public:
  PairwiseRanks(std::shared_ptr<PairwiseWorld> world, std::unique_ptr<PairwiseTransport> transport,
                std::string name, std::vector<int> members, int rank)
      : Communicator(std::move(name), std::move(members), rank),
        world_(std::move(world)),
        transport_(std::move(transport)),
        counter_(size()),
        last_(count()),
        expected_(count()),
        here_(count()),
        into_(count()),
        inputs_(count()),
        calls_(count()),
        tables_(count()) {}

  std::string library() const override { return transport_->library(); }

 protected:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse) override {
    const int64_t mine[2] = {color, key};
    const Calling calling(*this, counter_.collective(Call::Kind::split));
    meet(mine);
    std::vector<SplitChoice> choices;
    for (int r = 0; r < size(); ++r)
      choices.push_back(
          {static_cast<int>(tables_[index(r)][0]), static_cast<int>(tables_[index(r)][1])});
    Part part = part_of(choices, rank(), members());
    // All are here: this does not wait for anyone who might not come.
    auto transport = transport_->split(counter_.collectives(), color, key, part.members);
    if (color < 0) return nullptr;
    return std::make_unique<PairwiseRanks>(world_, std::move(transport), name,
                                           std::move(part.members), part.rank);
  }

  // Each rank sums its part of the elements and sends it to all.
  void do_all_reduce(Stream&, TensorView data, ReduceOp op) override {
    const Calling calling(*this, counter_.collective(Call::Kind::all_reduce, data, op));
    meet();
    const int64_t n = data.count(), width = size_of(data.dtype);
    const auto at = [&](int r) { return n * r / size() * width; };
    const auto part_bytes = [&](int r) { return at(r + 1) - at(r); };
    std::byte* part = data.data + at(rank());
    const int64_t mine = part_bytes(rank());
    receive_from_all(mine);
    for (int r = 0; r < size(); ++r) send(r, data.data + at(r), part_bytes(r));
    finish();
    reduce(op, data.dtype, part, part, mine / width);
    for (int r = 0; r < size(); ++r) {
      receive(r, data.data + at(r), part_bytes(r));
      send(r, part, mine);
    }
    finish();
  }

  void do_all_gather(Stream&, TensorView out, ConstTensorView in) override {
    const Calling calling(*this, counter_.collective(Call::Kind::all_gather, in));
    meet();
    for (int r = 0; r < size(); ++r) {
      receive(r, out.data + r * in.bytes(), in.bytes());
      send(r, in.data, in.bytes());
    }
    copy_bytes(out.data + rank() * in.bytes(), in.data, in.bytes());
    finish();
  }

  void do_reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp op) override {
    const Calling calling(*this, counter_.collective(Call::Kind::reduce_scatter, out, op));
    meet();
    const int64_t bytes = out.bytes();
    receive_from_all(bytes);
    for (int r = 0; r < size(); ++r) send(r, in.data + r * bytes, bytes);
    finish();
    reduce(op, out.dtype, out.data, in.data + rank() * bytes, out.count());
  }

  void do_all_to_all(Stream&, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    counts_.assign(send_rows.begin(), send_rows.end());
    counts_.insert(counts_.end(), recv_rows.begin(), recv_rows.end());
    const Calling calling(*this, counter_.collective(Call::Kind::all_to_all, in));
    meet(counts_);
    const int64_t row = row_bytes(in);
    const std::byte* from = in.data;
    std::byte* to = out.data;
    for (int r = 0; r < size(); ++r) {
      const int64_t sent = send_rows[index(r)] * row, received = recv_rows[index(r)] * row;
      receive(r, to, received);
      send(r, from, sent);
      if (r == rank()) copy_bytes(to, from, sent);
      from += sent;
      to += received;
    }
    finish();
  }

  void do_broadcast(Stream&, TensorView data, int root) override {
    const Calling calling(*this,
                          counter_.collective(Call::Kind::broadcast, data, ReduceOp::sum, root));
    meet();
    if (rank() != root) receive(root, data.data, data.bytes());
    for (int r = 0; r < size() && rank() == root; ++r) send(r, data.data, data.bytes());
    finish();
  }

  void do_barrier(Stream&) override {
    const Calling calling(*this, counter_.collective(Call::Kind::barrier));
    meet();
  }

  void do_send(Stream&, ConstTensorView data, int to) override {
    NEREUS_CHECK(kContract,
                 static_cast<int64_t>(sizeof(Call)) + data.bytes() <= transport_->most_posted(),
                 "send of group {}: {} is more than 1 GiB", name(), data);
    const Calling calling(*this, counter_.send(data, to));
    world_->world.check();
    transport_->post(to, bytes_of(call_), {data.data, static_cast<size_t>(data.bytes())});
  }

  void do_recv(Stream&, TensorView data, int from) override {
    const Calling calling(*this, counter_.recv(data, from));
    Received message;
    wait([&] { return transport_->take(from, message); }, [&](int r) { return r == from; });
    Call sent;
    std::memcpy(&sent, message.data, sizeof sent);
    const std::string wrong = message_disagreement(name(), members(), from, rank(), sent, call_);
    if (!wrong.empty()) fail(wrong);
    copy_bytes(data.data, message.data + sizeof sent, data.bytes());
  }

 private:
  // A call, from its begin to its end. What an exception breaks off is forgotten: the tensors that
  // the transport still sends or receives may go with that exception.
  class Calling {
   public:
    Calling(PairwiseRanks& ranks, const Call& call)
        : ranks_(ranks), exceptions_(std::uncaught_exceptions()) {
      ranks_.call_ = call;
      ranks_.world_->activity.enter(ranks_.name(), call);
    }
    ~Calling() {
      if (std::uncaught_exceptions() == exceptions_) {
        ranks_.world_->activity.leave();
      } else {
        ranks_.transport_->forget();
      }
    }
    Calling(const Calling&) = delete;
    Calling& operator=(const Calling&) = delete;

   private:
    PairwiseRanks& ranks_;
    const int exceptions_;
  };

  size_t count() const { return static_cast<size_t>(size()); }
  static size_t index(int r) { return static_cast<size_t>(r); }
  static std::span<const std::byte> bytes_of(const Call& call) {
    return {reinterpret_cast<const std::byte*>(&call), sizeof call};
  }

  // Starts parts of a collective, which finish() waits for; with this rank itself, nothing.
  void send(int to, const std::byte* data, int64_t bytes) {
    if (to != rank() && bytes > 0) transport_->send(to, data, bytes);
  }
  void receive(int from, std::byte* into, int64_t bytes) {
    if (from == rank() || bytes == 0) return;
    expected_[index(from)] = bytes;
    into_[index(from)] = into;
    transport_->receive(from, into, bytes);
  }
  void receive_from_all(int64_t bytes) {
    if (bytes == 0) return;
    for (int r = 0; r < size(); ++r) expected_[index(r)] = r == rank() ? 0 : bytes;
    transport_->receive_from_all(bytes);
  }

  // What was to be received is where it belongs, or in inputs_.
  void finish() {
    for (int r = 0; r < size(); ++r) here_[index(r)] = expected_[index(r)] == 0;
    wait(
        [&] {
          bool all = transport_->all_sent();
          for (int r = 0; r < size(); ++r) {
            if (!here_[index(r)]) here_[index(r)] = transport_->arrived(r);
            all = all && here_[index(r)];
          }
          return all;
        },
        [&](int r) { return !here_[index(r)]; });
    for (int r = 0; r < size(); ++r) {
      const int64_t bytes = std::exchange(expected_[index(r)], 0);
      std::byte* const into = std::exchange(into_[index(r)], nullptr);
      if (bytes == 0) continue;
      Received& got = inputs_[index(r)];
      got = transport_->received(r);
      NEREUS_CHECK(kComm, got.bytes == bytes,
                   "{} of group {}: {} bytes came from {}, {} were expected", call_.to_string(),
                   name(), got.bytes, rank_text(members(), r), bytes);
      if (into == nullptr) continue;
      copy_bytes(into, got.data, bytes);
      got = {};
    }
  }

  // Over what receive_from_all() brought; this rank's input is `mine`.
  void reduce(ReduceOp op, DType type, std::byte* out, const std::byte* mine, int64_t elements) {
    pointers_.clear();
    for (int r = 0; r < size(); ++r)
      pointers_.push_back(r == rank() ? mine : inputs_[index(r)].data);
    host_reduce(op, type, out, pointers_, elements);
    for (Received& input : inputs_) input = {};
  }

  // Shows all others what this rank calls, and waits for what they call.
  void meet(std::span<const int64_t> counts = {}) {
    world_->world.check();
    const size_t table = 2 * count() + 2;  // of all kinds: none is cut off
    shown_.assign(sizeof(Call) + table * sizeof(int64_t), std::byte{0});
    std::memcpy(shown_.data(), &call_, sizeof call_);
    if (!counts.empty())
      std::memcpy(shown_.data() + sizeof call_, counts.data(), counts.size_bytes());
    const auto bytes = static_cast<int64_t>(shown_.size());
    receive_from_all(bytes);
    for (int r = 0; r < size(); ++r) send(r, shown_.data(), bytes);
    finish();
    for (int r = 0; r < size(); ++r) {
      const std::byte* header = r == rank() ? shown_.data() : inputs_[index(r)].data;
      std::memcpy(&calls_[index(r)], header, sizeof(Call));
      last_[index(r)] = calls_[index(r)];
      tables_[index(r)] = reinterpret_cast<const int64_t*>(header + sizeof(Call));
    }
    std::string wrong = disagreement(name(), members(), calls_);
    if (wrong.empty() && call_.kind == Call::Kind::all_to_all)
      wrong = row_disagreement(name(), members(), call_, tables_);
    if (!wrong.empty()) fail(wrong);
  }

  // Until done(). absent(r): rank r is what this one waits for.
  template <class Done, class Absent>
  void wait(Done done, Absent absent) {
    using Outcome = PairwiseTransport::Outcome;
    const std::chrono::milliseconds timeout = world_->world.timeout();
    const auto hopeless = [&] {
      for (int r = 0; r < size(); ++r)
        if (r != rank() && absent(r) && transport_->has_left(r)) return true;
      return false;
    };
    const Outcome outcome =
        transport_->wait(PairwiseTransport::Clock::now() + timeout, done, hopeless);
    if (outcome == Outcome::done) return;
    const bool ended = outcome == Outcome::hopeless;
    if (outcome == Outcome::failed) world_->world.check();
    std::vector<MissingRank> missing;
    std::vector<int> who;
    for (int r = 0; r < size(); ++r) {
      if (r == rank() || !absent(r) || (ended && !transport_->has_left(r))) continue;
      const Call& last = last_[index(r)];
      missing.push_back({r, last.kind == Call::Kind::none
                                ? "it has called no collective of this group yet"
                                : "it has called nothing since " + last.to_string()});
      who.push_back(members()[index(r)]);
    }
    const std::vector<std::string> told = world_->world.activities(who);
    for (size_t i = 0; i < missing.size(); ++i) {
      if (ended) missing[i].activity = "it ended";
      if (!ended && !told[i].empty()) missing[i].activity = told[i];
    }
    const double seconds = ended ? -1 : std::chrono::duration<double>(timeout).count();
    fail(time_out_message(name(), members(), call_, seconds, missing, world_->world.step()));
  }
  [[noreturn]] void fail(const std::string& message) {
    throw Error(Fault::kComm, world_->world.fail(message));
  }

  std::shared_ptr<PairwiseWorld> world_;
  std::unique_ptr<PairwiseTransport> transport_;
  CallCounter counter_;
  Call call_;               // the current one
  std::vector<Call> last_;  // by rank: what it came to last
  std::vector<std::byte> shown_;
  // Of the current part of a collective, by rank.
  std::vector<int64_t> expected_;  // bytes
  std::vector<char> here_;
  std::vector<std::byte*> into_;  // null: they stay in inputs_
  std::vector<Received> inputs_;
  std::vector<int64_t> counts_;
  std::vector<Call> calls_;
  std::vector<const int64_t*> tables_;
  std::vector<const std::byte*> pointers_;
};

}  // namespace

std::unique_ptr<Communicator> pairwise_ranks(World& world,
                                             std::unique_ptr<PairwiseTransport> transport) {
  std::vector<int> members(static_cast<size_t>(world.size()));
  std::iota(members.begin(), members.end(), 0);
  return std::make_unique<PairwiseRanks>(std::make_shared<PairwiseWorld>(world),
                                         std::move(transport), "world", std::move(members),
                                         world.rank());
}

}  // namespace nereus
