#include "comm/communicator_test.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/philox.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Tensor;
using testing::HasSubstr;

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64};

// Element i of rank r: floats of mixed size, so that the order of a sum shows in its bits.
double element(DType t, int r, int64_t i) {
  const uint32_t bits = philox(static_cast<uint64_t>(r) + 5, static_cast<uint64_t>(i)).v[0];
  const double x = (static_cast<double>(bits) / 4294967296.0 - 0.5) * std::ldexp(1, r % 13);
  if (t == DType::f32) return static_cast<float>(x);
  if (t == DType::bf16) return static_cast<float>(bf16(static_cast<float>(x)));
  return t == DType::f64 ? x : std::floor(x * 1000);
}

Tensor values(Device device, DType t, int rank, const Shape& shape) {
  std::vector<double> x;
  for (int64_t i = 0; i < shape.count(); ++i) x.push_back(element(t, rank, i));
  Tensor out(device, t, shape);
  out.set(x);
  return out;
}

std::vector<double> read(Stream& s, const Tensor& x) {
  s.synchronize();
  return x.values();
}

// The formula, in the contract's order: by rank, in f32 for f32 and bf16.
double reduced(DType t, ReduceOp op, int ranks, int64_t i) {
  double y = element(t, 0, i);
  for (int r = 1; r < ranks; ++r) {
    const double x = element(t, r, i);
    y = op == ReduceOp::max ? std::max(x, y) : x + y;
    if (t == DType::f32 || t == DType::bf16) y = static_cast<float>(y);
  }
  return t == DType::bf16 ? static_cast<float>(bf16(static_cast<float>(y))) : y;
}

// How far from it another order of the sum, rounded at every addition, may be.
double reorder_bound(DType t, ReduceOp op, int ranks, int64_t i) {
  if (op == ReduceOp::max || t == DType::i32 || t == DType::i64) return 0;
  double sum = 0;
  for (int r = 0; r < ranks; ++r) sum += std::abs(element(t, r, i));
  return 2 * ranks * test::unit_roundoff(t) * sum;
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

class CommunicatorTest : public testing::TestWithParam<test::Ranks*> {
 protected:
  // Left out, and said so, where there are not that many ranks.
  void run(int ranks, FunctionRef<void(Communicator&, Stream&)> work) {
    if (ranks > GetParam()->most()) return left_out_.push_back(ranks);
    ran_.push_back(ranks);
    GetParam()->run(ranks, std::chrono::seconds(60), [&](Communicator& c, World&) {
      Stream stream(GetParam()->on_host() ? Device::cpu() : Device::cuda(c.rank()), &test::pool());
      work(c, stream);
      stream.synchronize();
    });
  }
  void TearDown() override {
    if (left_out_.empty()) return;
    const std::string why = testing::PrintToString(left_out_) +
                            " ranks were asked for; there are " +
                            std::to_string(GetParam()->most());
    // Tests of processes have four; of threads there are as many as one likes.
    EXPECT_FALSE(GetParam()->on_host() && left_out_.front() <= 4) << why;
    EXPECT_FALSE(GetParam()->on_host() && !test::ranks_are_processes()) << why;
    if (ran_.empty()) GTEST_SKIP() << why;
    std::printf("  [ left out ] %s; ran with %s\n", why.c_str(),
                testing::PrintToString(ran_).c_str());
  }
  double tolerance(DType t, ReduceOp op, int ranks, int64_t i) const {
    return GetParam()->on_host() ? 0 : reorder_bound(t, op, ranks, i);
  }
  std::vector<int> left_out_, ran_;  // numbers of ranks
  // A world that fails: each rank's error is judged by itself, and what ends the world is returned.
  std::string fail(int ranks, milliseconds timeout,
                   FunctionRef<void(Communicator&, Stream&)> work) {
    return end_world(ranks, timeout, [&](Communicator& c, Stream& s, World&) { work(c, s); });
  }
  std::string end_world(int ranks, milliseconds timeout,
                        FunctionRef<void(Communicator&, Stream&, World&)> work) {
    return message_of([&] {
      GetParam()->run(ranks, timeout, [&](Communicator& c, World& world) {
        Stream stream(Device::cpu(), &test::pool());
        work(c, stream, world);
      });
    });
  }
};

#define SKIP_ON_GPUS(why) \
  if (!GetParam()->on_host()) GTEST_SKIP() << why

std::vector<test::Ranks*> backends() {
  if (test::over_sockets()) return {&test::socket_ranks()};
  if (test::under_mpi()) return {&test::mpi_ranks()};
  if (kHasCuda) return {&test::thread_ranks(), &test::nccl_ranks()};
  return {&test::thread_ranks()};
}
INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest, testing::ValuesIn(backends()),
                         [](const auto& backend) { return std::string(backend.param->name()); });

// Every rank writes into all blocks, and reads what all wrote into its own.
TEST_P(CommunicatorTest, RanksThatShareMemoryWriteIntoEachOthersWindows) {
  if (!GetParam()->may_share_memory()) GTEST_SKIP() << "ranks are processes on host memory";
  std::atomic<bool> apart{false};
  run(2, [&](Communicator& c, Stream& s) {
    EXPECT_TRUE(c.shares_memory() || !GetParam()->on_host());
    if (!c.shares_memory()) {
      apart = true;
      return;
    }
    constexpr int64_t kBlock = 1024;
    for (int round = 0; round < 2; ++round) {
      const std::unique_ptr<Window> window = c.window(s, c.size() * kBlock);
      std::vector<int64_t> bases(static_cast<size_t>(c.size()));
      copy_to_host(s, bases.data(), window->bases());
      s.synchronize();
      for (int step = 0; step < 50; ++step) {
        const auto mark = static_cast<float>(100 * c.rank() + step);
        const Tensor mine = Tensor(s.device(), DType::f32, {kBlock / 4}).fill(mark);
        window->meet(s);
        for (const int64_t base : bases) {
          auto* const there = reinterpret_cast<std::byte*>(base) + c.rank() * kBlock;
          copy_rows(s, TensorView(there, DType::f32, {kBlock / 4}), mine);
        }
        window->meet(s);
        std::vector<float> found(static_cast<size_t>(c.size() * kBlock / 4));
        copy_to_host(s, found.data(),
                     ConstTensorView(window->data(), DType::f32, {c.size() * kBlock / 4}));
        s.synchronize();
        for (int r = 0; r < c.size(); ++r) {
          const auto at = static_cast<size_t>(r * kBlock / 4);
          ASSERT_EQ(found[at], static_cast<float>(100 * r + step));
          ASSERT_EQ(found[at + kBlock / 4 - 1], static_cast<float>(100 * r + step));
        }
      }
    }
  });
  if (apart) GTEST_SKIP() << "these GPUs do not see each other's memory";
}

TEST_P(CommunicatorTest, RanksThatDoNotShareMemoryAreRefusedAWindow) {
  if (GetParam()->may_share_memory()) GTEST_SKIP() << "ranks may see each other's memory";
  run(2, [&](Communicator& c, Stream& s) {
    EXPECT_FALSE(c.shares_memory());
    EXPECT_THAT(
        message_of([&] { (void)c.window(s, 64); }),
        HasSubstr("window of group world: 64 bytes; its ranks do not see each other's memory"));
    c.barrier(s);  // it is no reason to end
  });
}

TEST_P(CommunicatorTest, AllReduceSumsInTheOrderOfRanksToTheSameBitsOnAll) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    run(ranks, [&](Communicator& c, Stream& s) {
      for (const DType t : kTypes) {
        for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
          for (const int64_t n : {0, 1, 5, 1500}) {
            const Tensor x = values(s.device(), t, c.rank(), {n});
            c.all_reduce(s, x, op);
            const std::vector<double> got = read(s, x);
            for (int64_t i = 0; i < n; ++i)
              ASSERT_NEAR(got[static_cast<size_t>(i)], reduced(t, op, ranks, i),
                          tolerance(t, op, ranks, i))
                  << name_of(t) << " " << ranks << " " << i;
            // The same on all: a maximum over the ranks changes nothing.
            Tensor again(s.device(), t, {n});
            again.set(got);
            c.all_reduce(s, again, ReduceOp::max);
            ASSERT_EQ(read(s, again), got);
          }
        }
      }
    });
  }
}

TEST_P(CommunicatorTest, IntegerSumsWrapAndAMaximumKeepsNaN) {
  SKIP_ON_GPUS("NCCL does not say what a maximum with NaN is");
  run(4, [&](Communicator& c, Stream& s) {
    Tensor big(Device::cpu(), DType::i32, {2});
    big.set({2147483647.0, -1});
    c.all_reduce(s, big);
    EXPECT_EQ(big.values(), (std::vector<double>{-4, -4}));
    for (int at = 0; at < 4; ++at) {
      Tensor x =
          Tensor(Device::cpu(), DType::f32, {1}).fill(c.rank() == at ? std::nan("") : c.rank());
      c.all_reduce(s, x, ReduceOp::max);
      EXPECT_TRUE(std::isnan(x[0])) << at;
    }
  });
}

TEST_P(CommunicatorTest, AllGatherPutsRanksOneAfterTheOther) {
  for (const int ranks : {1, 2, 3, 4}) {
    run(ranks, [&](Communicator& c, Stream& s) {
      for (const DType t : {DType::f32, DType::bf16, DType::i32, DType::i64}) {
        for (const Shape& shape : {Shape{0, 4}, Shape{1, 1}, Shape{3, 5}, Shape{37, 11}}) {
          const int64_t n = shape.count();
          const auto value = [](int r, int64_t i) {
            return static_cast<double>((r * 7 + i) % 120);
          };
          std::vector<double> mine, expected, in_place_before(static_cast<size_t>(ranks * n), 121);
          for (int64_t i = 0; i < n; ++i) mine.push_back(value(c.rank(), i));
          for (int r = 0; r < ranks; ++r)
            for (int64_t i = 0; i < n; ++i) expected.push_back(value(r, i));
          std::copy(mine.begin(), mine.end(), in_place_before.begin() + c.rank() * n);
          Tensor x(s.device(), t, shape), out(s.device(), t, {ranks * shape[0], shape[1]});
          Tensor in_place(s.device(), t, {ranks * shape[0], shape[1]});
          x.set(mine);
          out.fill(121);
          in_place.set(in_place_before);
          c.all_gather(s, out, x);
          c.all_gather(s, in_place,
                       in_place.view().rows(c.rank() * shape[0], (c.rank() + 1) * shape[0]));
          ASSERT_EQ(read(s, out), expected);
          ASSERT_EQ(read(s, in_place), expected);
        }
      }
    });
  }
}

TEST_P(CommunicatorTest, ReduceScatterIsARanksBlockOfTheSum) {
  for (const int ranks : {1, 2, 3, 4}) {
    run(ranks, [&](Communicator& c, Stream& s) {
      for (const DType t : kTypes) {
        for (const int64_t n : {0, 1, 7, 300}) {
          const Tensor x = values(s.device(), t, c.rank(), {ranks * n});
          const Tensor out = Tensor(s.device(), t, {n}).poison();
          c.reduce_scatter(s, out, x);
          const int64_t begin = c.rank() * n;
          const std::vector<double> got = read(s, out), in = read(s, x);
          for (int64_t i = 0; i < n; ++i)
            ASSERT_NEAR(got[static_cast<size_t>(i)], reduced(t, ReduceOp::sum, ranks, begin + i),
                        tolerance(t, ReduceOp::sum, ranks, begin + i));
          for (int64_t i = 0; i < ranks * n; ++i)
            ASSERT_EQ(in[static_cast<size_t>(i)], element(t, c.rank(), i)) << "`in` was written";
          c.reduce_scatter(s, x.view().rows(begin, begin + n), x, ReduceOp::max);
          const std::vector<double> most = read(s, x);
          for (int64_t i = 0; i < n; ++i)
            ASSERT_EQ(most[static_cast<size_t>(begin + i)],
                      reduced(t, ReduceOp::max, ranks, begin + i));
        }
      }
    });
  }
}

TEST_P(CommunicatorTest, AllToAllSendsAnyNumberOfRows) {
  // Rows that rank r sends to rank s, by pattern: uneven, nothing at all, everything to rank 0.
  const std::vector<std::function<int64_t(int, int)>> patterns = {
      [](int r, int s) { return (r * 3 + s * 5) % 4; },
      [](int, int) { return 0; },
      [](int r, int s) { return s == 0 ? 10 + r : 0; },
  };
  for (const int ranks : {1, 2, 3, 4}) {
    run(ranks, [&](Communicator& c, Stream& s) {
      for (const auto& rows : patterns) {
        for (const int64_t width : {0, 1, 9}) {
          std::vector<int64_t> send, recv;
          int64_t sent = 0, received = 0;
          for (int r = 0; r < ranks; ++r) {
            send.push_back(rows(c.rank(), r));
            recv.push_back(rows(r, c.rank()));
            sent += send.back();
            received += recv.back();
          }
          // A row says who sends it to whom, as which row. One row more than needed on both sides.
          const auto code = [](int from, int to, int64_t i) {
            return static_cast<double>(from * 10000 + to * 100 + i);
          };
          const auto shape = [&](int64_t n) { return width == 0 ? Shape{n} : Shape{n, width}; };
          const int64_t step = std::max<int64_t>(width, 1);
          const double poison = std::nan("");
          std::vector<double> in_values, expected;
          for (int r = 0; r < ranks; ++r) {
            for (int64_t i = 0; i < send[static_cast<size_t>(r)]; ++i)
              in_values.insert(in_values.end(), static_cast<size_t>(step), code(c.rank(), r, i));
            for (int64_t i = 0; i < recv[static_cast<size_t>(r)]; ++i)
              expected.insert(expected.end(), static_cast<size_t>(step), code(r, c.rank(), i));
          }
          in_values.insert(in_values.end(), static_cast<size_t>(step), poison);
          Tensor in(s.device(), DType::f32, shape(sent + 1));
          in.set(in_values);
          const Tensor out = Tensor(s.device(), DType::f32, shape(received + 1)).poison();
          c.all_to_all(s, out, in, send, recv);
          std::vector<double> got = read(s, out);
          for (int64_t d = 0; d < step; ++d)
            ASSERT_TRUE(std::isnan(got[expected.size() + static_cast<size_t>(d)]));
          got.resize(expected.size());
          ASSERT_EQ(got, expected);
        }
      }
    });
  }
}

TEST_P(CommunicatorTest, BroadcastBringsTheRootsDataFromEveryRoot) {
  const int ranks = std::max(2, std::min(4, GetParam()->most()));
  run(ranks, [&](Communicator& c, Stream& s) {
    for (int root = 0; root < ranks; ++root) {
      for (const int64_t n : {0, 1, 777}) {
        const Tensor x = values(s.device(), DType::f64, c.rank(), {n});
        c.broadcast(s, x, root);
        const std::vector<double> got = read(s, x);
        for (int64_t i = 0; i < n; ++i)
          ASSERT_EQ(got[static_cast<size_t>(i)], element(DType::f64, root, i));
      }
    }
  });
}

TEST_P(CommunicatorTest, SendDoesNotWaitAndMessagesKeepTheirOrder) {
  const int ranks = std::max(2, std::min(3, GetParam()->most()));
  run(ranks, [&](Communicator& c, Stream& s) {
    const int next = (c.rank() + 1) % ranks, before = (c.rank() + ranks - 1) % ranks;
    // 1 MiB: more than any transport buffers by itself. All send before anyone receives, and what
    // was sent is overwritten.
    Tensor out(s.device(), DType::f32, {1 << 18}), in(s.device(), DType::f32, {1 << 18});
    constexpr int kMessages = 2;  // and as many again where both neighbours are the same rank
    for (int message = 0; message < kMessages; ++message) {
      out.fill(c.rank() * 10 + message);
      c.send(s, out, next);
      c.send(s, out, before);
    }
    out.fill(-1);
    for (int message = 0; message < kMessages; ++message) {
      for (const int from : {next, before}) {
        in.poison();
        c.recv(s, in, from);
        s.synchronize();
        ASSERT_EQ(in[0], from * 10 + message);
        ASSERT_EQ(in[(1 << 18) - 1], from * 10 + message);
      }
    }
    Tensor nothing(s.device(), DType::f32, {0});
    c.send(s, nothing, next);
    c.recv(s, nothing, before);
  });
}

TEST_P(CommunicatorTest, SplitGroupsByColorAndOrdersByKey) {
  run(GetParam()->most() < 4 ? 2 : 4, [&](Communicator& c, Stream& s) {
    const auto pair = c.split("pair", c.rank() / 2, -c.rank());  // the higher rank first
    ASSERT_TRUE(pair);
    EXPECT_EQ(pair->name(), "pair");
    EXPECT_EQ(pair->size(), 2);
    EXPECT_EQ(pair->rank(), 1 - c.rank() % 2);
    const int base = c.rank() / 2 * 2;
    EXPECT_EQ(pair->members(), (std::vector<int>{base + 1, base}));
    Tensor x = Tensor(s.device(), DType::i32, {1}).fill(c.rank());
    pair->all_reduce(s, x);
    s.synchronize();
    EXPECT_EQ(x[0], 2 * base + 1);

    const auto first = c.split("first", c.rank() == 0 ? 3 : -1, 0);
    EXPECT_EQ(first != nullptr, c.rank() == 0);
    const auto same_key = c.split("all", 0, 0);
    EXPECT_EQ(same_key->rank(), c.rank());
    const auto of_pair = pair->split("of pair", pair->rank(), 0);
    EXPECT_EQ(of_pair->members(), std::vector<int>{c.rank()});
    x.fill(7);
    of_pair->all_reduce(s, x);
    s.synchronize();
    EXPECT_EQ(x[0], 7);
  });
}

TEST_P(CommunicatorTest, GroupsWorkAtTheSameTimeInTheirOwnOrder) {
  run(4, [&](Communicator& c, Stream& s) {
    const auto row = c.split("row", c.rank() / 2, 0), column = c.split("column", c.rank() % 2, 0);
    for (int round = 0; round < 50; ++round) {
      Tensor x = Tensor(s.device(), DType::i64, {3}).fill(c.rank() + round);
      // Rank 0 sends to its column's other rank while rows reduce.
      if (column->rank() == 0) column->send(s, x, 1);
      row->all_reduce(s, x);
      s.synchronize();
      ASSERT_EQ(x[0], c.rank() / 2 * 4 + 1 + 2 * round);
      if (column->rank() == 1) {
        column->recv(s, x, 0);
        s.synchronize();
        ASSERT_EQ(x[2], column->members()[0] + round);
      }
      c.barrier(s);
    }
  });
}

TEST_P(CommunicatorTest, NothingIsExchangedOnTheMetaDevice) {
  run(2, [&](Communicator& c, Stream&) {
    if (c.rank() == 1) return;
    Stream meta(Device::meta());
    const TensorView x(nullptr, DType::f32, {4}), y(nullptr, DType::f32, {8});
    const std::vector<int64_t> rows = {2, 2};
    c.all_reduce(meta, x);
    c.all_gather(meta, y, x);
    c.reduce_scatter(meta, x, y);
    c.all_to_all(meta, x, x, rows, rows);
    c.broadcast(meta, x, 1);
    c.send(meta, x, 1);
    c.recv(meta, x, 1);
    c.barrier(meta);
    EXPECT_THROW(c.all_gather(meta, x, x), Error);
  });
}

TEST_P(CommunicatorTest, WrongArgumentsAreRefusedBeforeAnybodyIsAsked) {
  run(2, [&](Communicator& c, Stream& s) {
    Tensor x(s.device(), DType::f32, {4, 3}), bytes(s.device(), DType::u8, {4});
    const std::vector<int64_t> two = {2, 2}, three = {1, 1, 1}, many = {3, 2}, negative = {-1, 2};
    const auto says = [&](const std::function<void()>& f, const char* text) {
      EXPECT_THAT(message_of(f), HasSubstr(text));
    };
    says([&] { c.all_reduce(s, TensorView()); }, "all_reduce of group world: there is no tensor");
    says([&] { c.all_reduce(s, x.view().columns(0, 2)); }, "is not contiguous");
    says([&] { c.all_reduce(s, bytes); }, "u8 [4] cannot be reduced");
    says([&] { c.all_gather(s, x, x); }, "out must hold 2 times in");
    says([&] { c.reduce_scatter(s, x, x); }, "in must hold 2 times out");
    says([&] { c.all_to_all(s, x, x, three, two); }, "3 and 2 row counts, 2 ranks");
    says([&] { c.all_to_all(s, x, x, many, two); }, "5 rows to send of f32 [4, 3]");
    says([&] { c.all_to_all(s, x, x, negative, two); }, "a row count is negative");
    says([&] { c.all_to_all(s, x, bytes, two, two); }, "their rows must be alike");
    says([&] { c.broadcast(s, x, 2); }, "root 2 of 2 ranks");
    says([&] { c.send(s, x, c.rank()); }, "send of group world");
    says([&] { c.recv(s, x, -1); }, "from rank -1 of 2");
    says([&] { (void)c.split("x", -2, 0); }, "color -2");
    c.barrier(s);
  });
}

TEST_P(CommunicatorTest, RanksThatCallDifferentCollectivesAreAllTold) {
  SKIP_ON_GPUS("what ranks call is not compared there");
  fail(4, milliseconds(20000), [&](Communicator& c, Stream& s) {
    Tensor x(Device::cpu(), DType::f32, {8}), y(Device::cpu(), DType::f32, {2});
    c.barrier(s);
    const std::string message = message_of([&] {
      if (c.rank() == 2) {
        c.all_gather(s, x, y);
      } else {
        c.all_reduce(s, x);
      }
    });
    EXPECT_EQ(message,
              "the 4 ranks of group world do not call the same:\n"
              "  rank 0 and 2 more: all_reduce number 2 (sum) of f32 [8]\n"
              "  rank 2: all_gather number 2 of f32 [2]");
    // Nothing of this world can be used from here on.
    EXPECT_EQ(message_of([&] { c.barrier(s); }), message);
  });
}

TEST_P(CommunicatorTest, RanksWithDifferentShapesTypesRootsOrOpsAreAllTold) {
  SKIP_ON_GPUS("what ranks call is not compared there");
  const auto told = [&](const char* a, const char* b,
                        const std::function<void(Communicator&, Stream&)>& call) {
    fail(2, milliseconds(20000), [&](Communicator& c, Stream& s) {
      const std::string message = message_of([&] { call(c, s); });
      EXPECT_THAT(message, HasSubstr(std::string("rank 0: ") + a));
      EXPECT_THAT(message, HasSubstr(std::string("rank 1: ") + b));
    });
  };
  const auto tensor = [](int64_t n) { return Tensor(Device::cpu(), DType::f32, {n}); };
  told("all_reduce number 1 (sum) of f32 [4]", "all_reduce number 1 (sum) of f32 [5]",
       [&](Communicator& c, Stream& s) { c.all_reduce(s, tensor(4 + c.rank())); });
  told("all_reduce number 1 (sum)", "all_reduce number 1 (max)",
       [&](Communicator& c, Stream& s) { c.all_reduce(s, tensor(4), ReduceOp(c.rank())); });
  told("broadcast number 1 of f32 [4] from rank 0", "broadcast number 1 of f32 [4] from rank 1",
       [&](Communicator& c, Stream& s) { c.broadcast(s, tensor(4), c.rank()); });
  told("barrier number 1", "all_reduce number 1 (sum) of i32 [1]", [&](Communicator& c, Stream& s) {
    if (c.rank() == 0) return c.barrier(s);
    c.all_reduce(s, Tensor(Device::cpu(), DType::i32, {1}));
  });
}

TEST_P(CommunicatorTest, RowCountsThatDoNotFitAreNamed) {
  SKIP_ON_GPUS("what ranks call is not compared there");
  fail(3, milliseconds(20000), [&](Communicator& c, Stream& s) {
    const std::vector<int64_t> right = {1, 1, 1}, wrong = {1, 0, 1};
    Tensor in(Device::cpu(), DType::f32, {3, 2}), out(Device::cpu(), DType::f32, {3, 2});
    EXPECT_EQ(
        message_of([&] { c.all_to_all(s, out, in, right, c.rank() == 2 ? wrong : right); }),
        "all_to_all number 1 of f32 [rows, 2] of group world: rank 1 sends 1 rows to rank 2, which "
        "expects 0");
  });
}

TEST_P(CommunicatorTest, AMessageOfAnotherShapeIsNamed) {
  SKIP_ON_GPUS("what ranks call is not compared there");
  fail(2, milliseconds(20000), [&](Communicator& c, Stream& s) {
    Tensor x(Device::cpu(), DType::f32, {4}), y(Device::cpu(), DType::bf16, {4});
    if (c.rank() == 0) return c.send(s, x, 1);
    EXPECT_EQ(message_of([&] { c.recv(s, y, 0); }),
              "rank 0 and rank 1 of group world do not agree:\n"
              "  the one calls send number 1 of f32 [4] to rank 1\n"
              "  the other recv number 1 of bf16 [4] from rank 0");
  });
}

TEST_P(CommunicatorTest, ARankThatDoesNotComeIsNamedToAllWithinTheTimeOut) {
  SKIP_ON_GPUS("nccl_ranks_test.cc has it for two GPUs");
  const auto begin = std::chrono::steady_clock::now();
  end_world(4, milliseconds(20000), [&](Communicator& c, Stream& s, World& world) {
    const auto pair = c.split("pair", c.rank() / 2, 0);
    pair->barrier(s);
    world.set_timeout(milliseconds(300));
    world.set_step(41);
    Tensor x(Device::cpu(), DType::f32, {8});
    const std::string message = message_of([&] {
      if (c.rank() == 2) return pair->recv(s, x, 1);  // nobody sends
      if (c.rank() == 3) return pair->all_reduce(s, x);
      c.all_reduce(s, x);
    });
    // Whose time is over first says it to all.
    EXPECT_THAT(message, HasSubstr("did not come within 0.3 s"));
    EXPECT_THAT(message, HasSubstr(", step 41: "));
    EXPECT_THAT(message, testing::AnyOf(HasSubstr("2 of its 4 ranks did not come"),
                                        HasSubstr("pair, step 41: 1 of its 2 ranks did not come")));
    EXPECT_THAT(message,
                testing::AnyOf(HasSubstr("all_reduce number"), HasSubstr("recv number 1")));
    EXPECT_THAT(message,
                testing::AnyOf(HasSubstr("\n  rank 2:"), HasSubstr("(rank 2 of the world)"),
                               HasSubstr("(rank 3 of the world)")));
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_P(CommunicatorTest, ARankThatFailsEndsTheOthersWithItsMessage) {
  SKIP_ON_GPUS("nccl_ranks_test.cc has it for two GPUs");
  std::atomic<int> ended{0};
  const auto work = [&](Communicator& c, Stream& s, World& world) {
    Tensor x(Device::cpu(), DType::f32, {8});
    try {
      // Rank 3 may fail while others are still in this: they are told there too.
      const auto pair = c.split("pair", c.rank() % 2, 0);
      if (c.rank() == 3) throw Error(Fault::kNumeric, "the loss is NaN");
      if (c.rank() == 1) return pair->recv(s, x, 1);
      c.all_reduce(s, x);
    } catch (const Error& e) {
      if (c.rank() != 3) {
        EXPECT_EQ(e.fault(), Fault::kComm);
        EXPECT_STREQ(e.what(),
                     "rank 3 of the world failed, which ends the others: the loss is NaN");
      } else {
        world.give_up(e.what());
      }
      ++ended;
      throw;
    }
  };
  const std::string outcome = end_world(4, milliseconds(20000), work);
  EXPECT_EQ(ended, test::ranks_are_processes() ? 1 : 4);
  EXPECT_THAT(outcome, HasSubstr("the loss is NaN"));
}

}  // namespace
}  // namespace nereus
