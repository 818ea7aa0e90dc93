#include "comm/pairwise_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "control/local_world.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Tensor;

// A network as slow as can be: what is sent stays where it is until the collective is waited for,
// and whatever stayed goes out when the transport ends, as sockets' thread would have it. All other
// ranks say what this one says.
class SlowNetwork final : public PairwiseTransport {
 public:
  struct Sent {
    int to = 0;
    const std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  struct Log {
    int sends = 0, breaks_at = 0;  // the how-manieth send throws; 0: none
    std::vector<Sent> queue;
    std::vector<std::byte> went;
  };

  SlowNetwork(Log& log, int ranks) : log_(log), came_(static_cast<size_t>(ranks)) {}
  ~SlowNetwork() override { flush(); }

  std::string library() const override { return "slow"; }
  void send(int to, const std::byte* data, int64_t bytes) override {
    NEREUS_CHECK(kComm, ++log_.sends != log_.breaks_at, "rank {} has no address", to);
    log_.queue.push_back({to, data, bytes});
    came_[static_cast<size_t>(to)].assign(data, data + bytes);
  }
  bool all_sent() override { return log_.queue.empty(); }
  void receive(int, std::byte*, int64_t) override {}
  void receive_from_all(int64_t) override {}
  bool arrived(int) override { return true; }
  Received received(int from) override {
    const std::vector<std::byte>& c = came_[static_cast<size_t>(from)];
    return {c.data(), static_cast<int64_t>(c.size()), nullptr};
  }
  void post(int, std::span<const std::byte>, std::span<const std::byte>) override {}
  bool take(int, Received&) override { return false; }
  Outcome wait(Clock::time_point, FunctionRef<bool()> done, FunctionRef<bool()>) override {
    flush();
    return done() ? Outcome::done : Outcome::late;
  }
  void forget() override { log_.queue.clear(); }
  std::unique_ptr<PairwiseTransport> split(int64_t, int, int, const std::vector<int>&) override {
    return nullptr;
  }

 private:
  void flush() {
    for (const Sent& s : log_.queue) log_.went.insert(log_.went.end(), s.data, s.data + s.bytes);
    log_.queue.clear();
  }

  Log& log_;
  std::vector<std::vector<std::byte>> came_;  // by rank
};

struct Case {
  const char* name;
  int sends;  // of one rank of three; the first two say what is called
  std::function<void(Communicator&, Stream&, Tensor&, Tensor&)> call;
};

// `out` has three times the rows of `in`.
const Case kCases[] = {
    {"all_reduce", 6, [](Communicator& c, Stream& s, Tensor&, Tensor& in) { c.all_reduce(s, in); }},
    {"all_gather", 4,
     [](Communicator& c, Stream& s, Tensor& out, Tensor& in) { c.all_gather(s, out, in); }},
    {"reduce_scatter", 4,
     [](Communicator& c, Stream& s, Tensor& out, Tensor& in) { c.reduce_scatter(s, in, out); }},
    {"all_to_all", 4,
     [](Communicator& c, Stream& s, Tensor& out, Tensor& in) {
       const std::vector<int64_t> rows{1, 1, 1};
       c.all_to_all(s, out.view().rows(0, 3), in, rows, rows);
     }},
    {"broadcast", 4,
     [](Communicator& c, Stream& s, Tensor&, Tensor& in) { c.broadcast(s, in, 0); }},
    {"barrier", 2, [](Communicator& c, Stream& s, Tensor&, Tensor&) { c.barrier(s); }},
};

// Under AddressSanitizer a network that kept an address reads memory that is gone.
TEST(PairwiseRanks, NothingIsSentOfACollectiveThatBrokeOff) {
  Stream stream(Device::cpu(), &test::pool());
  for (const Case& c : kCases) {
    for (int breaks_at = 0; breaks_at <= c.sends; ++breaks_at) {
      SCOPED_TRACE(std::string(c.name) + ", breaks at send " + std::to_string(breaks_at));
      const LocalWorld local(3, milliseconds(1000));
      SlowNetwork::Log log;
      log.breaks_at = breaks_at;
      auto group = pairwise_ranks(local.rank(0), std::make_unique<SlowNetwork>(log, 3));
      std::string what;
      try {
        Tensor out = Tensor(Device::cpu(), DType::f32, {9, 4}).fill(1);
        Tensor in = Tensor(Device::cpu(), DType::f32, {3, 4}).fill(1);
        c.call(*group, stream, out, in);
      } catch (const Error& e) {
        what = e.what();
      }
      EXPECT_EQ(what, breaks_at == 0       ? ""
                      : breaks_at % 2 == 1 ? "rank 1 has no address"
                                           : "rank 2 has no address");
      EXPECT_EQ(log.sends, breaks_at == 0 ? c.sends : breaks_at);
      EXPECT_TRUE(log.queue.empty()) << log.queue.size() << " sends are still to go out";
      const size_t went = log.went.size();
      group.reset();
      EXPECT_EQ(log.went.size(), went) << "went out after the collective had ended";
    }
  }
}

}  // namespace
}  // namespace nereus
