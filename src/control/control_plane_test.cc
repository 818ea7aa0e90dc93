#include "control/control_plane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "test/child_process.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Child;
using test::ChildFunction;
using test::Environment;
using test::given;
using test::tell;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

using Clock = std::chrono::steady_clock;

ControlPlaneOptions options_of(const test::ChildRank& r) {
  ControlPlaneOptions o;
  o.rank = r.rank;
  o.world_size = r.world_size;
  o.address = r.address;
  o.port = r.port;
  o.version = "1.0";
  o.rendezvous_timeout = milliseconds(20'000);
  o.heartbeat = milliseconds(100);
  o.silence = milliseconds(10'000);
  return o;
}

// A rank of a child process: what it ends with is reported.
void as_rank(const std::function<void(ControlPlaneOptions&)>& change,
             const std::function<void(ControlPlane&)>& work) {
  ControlPlaneOptions o = options_of(test::this_child_rank());
  if (change) change(o);
  try {
    ControlPlane control(o);
    work(control);
  } catch (const Error& e) {
    tell(std::string(e.fault() == Fault::kConfig ? "config: " : "error: ") + e.what());
  }
}

// Waits for the world's end and tells it.
void tell_failure(const ControlPlane& control) {
  while (!control.failure()) std::this_thread::sleep_for(milliseconds(1));
  tell("failure: " + control.failure()->text);
}

const ChildFunction exchange("exchange", [] {
  as_rank(nullptr, [](ControlPlane& c) {
    const std::string mine(static_cast<size_t>(c.rank()) * 100'000,
                           static_cast<char>('a' + c.rank()));
    if (c.rank() == 1) std::this_thread::sleep_for(milliseconds(50));
    c.set("of/" + std::to_string(c.rank()), mine + std::string(1, '\0'));
    bool right = true;
    for (int r = c.world_size() - 1; r >= 0; --r) {
      const std::string got = c.get("of/" + std::to_string(r), milliseconds(10'000));
      right = right && got.size() == static_cast<size_t>(r) * 100'000 + 1 && got.back() == '\0' &&
              (r == 0 || got[0] == 'a' + r);
    }
    tell((right ? "right " : "wrong ") + std::to_string(c.local_rank()) + "/" +
         std::to_string(c.local_world_size()) + " of " + std::to_string(c.hosts()));
    // They end at different times, rank 0 first: none of that is a failure.
    std::this_thread::sleep_for(milliseconds(150 * c.rank()));
    tell(c.failure() ? "failed " + c.failure()->text : "fine");
    c.close();
  });
});

const ChildFunction work_until_failure("work_until_failure", [] {
  as_rank([](ControlPlaneOptions& o) { o.silence = milliseconds(2000); },
          [](ControlPlane& c) {
            c.set_step(17);
            tell("at work");
            tell_failure(c);
          });
});

const ChildFunction meets("meet", [] {
  as_rank(
      [](ControlPlaneOptions& o) {
        if (!given("VERSION").empty()) o.version = given("VERSION");
        if (!given("WORLD").empty()) o.world_size = std::stoi(given("WORLD"));
        if (!given("TIMEOUT_MS").empty())
          o.rendezvous_timeout = milliseconds(std::stoi(given("TIMEOUT_MS")));
        o.run_id = given("RUN_ID");
        o.configuration = given("CONFIGURATION");
      },
      [](ControlPlane& c) {
        tell("met");
        c.close();
      });
});

const ChildFunction gives_up("give_up", [] {
  as_rank(nullptr, [](ControlPlane& c) {
    if (c.rank() == 1) tell("failure: " + c.fail("the loss is NaN", Fault::kNumeric).text);
    if (c.rank() == 2) return;  // leaves without a word
    tell_failure(c);
  });
});

const ChildFunction late_for_a_key("late_for_a_key", [] {
  as_rank(nullptr, [](ControlPlane& c) {
    try {
      c.get("never", milliseconds(50));
    } catch (const Error& e) {
      tell(e.what());
    }
    c.close();
  });
});

std::vector<std::string> outcomes(std::vector<Child>& ranks) {
  std::vector<std::string> out;
  for (Child& c : ranks) out.push_back(c.wait());
  return out;
}

TEST(ControlPlane, RanksMeetExchangeBytesAndLeaveAtDifferentTimes) {
  std::vector<Child> ranks = test::start_ranks("exchange", 4);
  int r = 0;
  for (const std::string& text : outcomes(ranks))
    EXPECT_EQ(text, "right " + std::to_string(r++) + "/4 of 1\nfine\n");
}

TEST(ControlPlane, AKilledRankIsAnnouncedToAllOthersWithinASecond) {
  for (const size_t killed : {size_t{2}, size_t{0}}) {  // rank 0 is the one that serves
    std::vector<Child> ranks = test::start_ranks("work_until_failure", 4);
    for (Child& c : ranks) ASSERT_TRUE(c.said("at work"));
    std::this_thread::sleep_for(milliseconds(200));  // rank 0's step comes with the next beat
    const auto begin = Clock::now();
    ranks[killed].kill(SIGKILL);
    for (size_t r = 0; r < ranks.size(); ++r)
      EXPECT_TRUE(r == killed || ranks[r].said("failure: ")) << r;
    const Clock::duration took = Clock::now() - begin;
    EXPECT_LT(took, test::soon(milliseconds(1000))) << killed;
    const std::vector<std::string> told = outcomes(ranks);
    EXPECT_EQ(ranks[killed].status(), -SIGKILL);
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (r == killed) continue;
      EXPECT_THAT(told[r],
                  AllOf(HasSubstr("rank " + std::to_string(killed) + " of the world (host "),
                        HasSubstr(") died at step 17: its connection closed")));
      EXPECT_EQ(told[r], told[(killed + 1) % 4]) << "one note for all";
    }
  }
}

TEST(ControlPlane, ARankThatGivesNoSignOfLifeIsAnnounced) {
  for (const size_t stopped : {size_t{1}, size_t{0}}) {
    std::vector<Child> ranks = test::start_ranks("work_until_failure", 3);
    for (Child& c : ranks) ASSERT_TRUE(c.said("at work"));
    std::this_thread::sleep_for(milliseconds(200));
    const auto begin = Clock::now();
    ranks[stopped].kill(SIGSTOP);
    for (size_t r = 0; r < ranks.size(); ++r)
      EXPECT_TRUE(r == stopped || ranks[r].said("failure: ")) << r;
    const Clock::duration took = Clock::now() - begin;
    EXPECT_LT(took, test::soon(milliseconds(4000)));
    ranks[stopped].kill(SIGKILL);
    const std::vector<std::string> told = outcomes(ranks);
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (r == stopped) continue;
      EXPECT_THAT(told[r],
                  AllOf(HasSubstr("rank " + std::to_string(stopped) + " of the world"),
                        HasSubstr("has given no sign of life for 2 s; it was at step 17")));
    }
  }
}

TEST(ControlPlane, TheFirstFailureIsEverybodys) {
  std::vector<Child> ranks = test::start_ranks("give_up", 3);
  const std::vector<std::string> told = outcomes(ranks);
  EXPECT_EQ(told[0], told[1].substr(0, told[0].size()));
  EXPECT_THAT(told[0], testing::AnyOf(HasSubstr("the loss is NaN"),
                                      HasSubstr("ended before its first step, before the others")));
}

TEST(ControlPlane, RanksThatDoNotComeAreNamed) {
  std::vector<Child> ranks;
  const std::string port = std::to_string(test::free_port());
  const Environment meeting = {{"WORLD_SIZE", "8"},
                               {"MASTER_ADDR", "localhost"},
                               {"MASTER_PORT", port},
                               {"TIMEOUT_MS", "3000"}};
  for (const char* rank : {"0", "2", "5"}) {
    Environment e = meeting;
    e["RANK"] = rank;
    ranks.emplace_back("meet", e);
  }
  for (const std::string& text : outcomes(ranks))
    EXPECT_THAT(text, HasSubstr("error: 5 of 8 ranks did not come to localhost:" + port +
                                " within 3 s: ranks 1, 3, 4, 6, 7.\n  Came: 3 of host "));
}

TEST(ControlPlane, ARankThatFindsNobodyTellsWhereItLooked) {
  const std::string port = std::to_string(test::free_port());
  Environment e = {{"RANK", "1"},
                   {"WORLD_SIZE", "2"},
                   {"MASTER_ADDR", "127.0.0.1"},
                   {"MASTER_PORT", port},
                   {"TIMEOUT_MS", "300"}};
  EXPECT_THAT(Child("meet", e).wait(),
              AllOf(StartsWith("error: rank 1 (host "),
                    HasSubstr(") could not meet rank 0 at 127.0.0.1:" + port +
                              " within 0.3 s: Connection refused.")));
  e["MASTER_ADDR"] = "no-such-host.invalid";
  EXPECT_THAT(Child("meet", e).wait(),
              HasSubstr("config: rank 1: the name no-such-host.invalid is not known"));
  e["MASTER_ADDR"] = "192.0.2.1";  // of nobody: reserved for documentation
  e["RANK"] = "0";
  EXPECT_THAT(Child("meet", e).wait(), HasSubstr("192.0.2.1 is no address of this host ("));
}

TEST(ControlPlane, APortInUseAndAStrangerAtThePortAreNamed) {
  const tcp::Listener other = tcp::listen_at(0);
  Environment e = {{"RANK", "0"},
                   {"WORLD_SIZE", "2"},
                   {"MASTER_ADDR", "127.0.0.1"},
                   {"MASTER_PORT", std::to_string(other.port)}};
  EXPECT_THAT(Child("meet", e).wait(),
              AllOf(HasSubstr("config: port " + std::to_string(other.port) + " of this host ("),
                    HasSubstr("Address already in use"), HasSubstr("set MASTER_PORT")));
  e["RANK"] = "1";
  Child child("meet", e);
  tcp::Fd fd;
  while (!(fd = tcp::accept_from(other))) std::this_thread::sleep_for(milliseconds(1));
  ASSERT_TRUE(tcp::write_all(fd, "HTTP/1.1 400 Bad Request\r\n"));
  EXPECT_THAT(child.wait(), HasSubstr("is not a Nereus run"));
}

TEST(ControlPlane, DifferentBuildsSizesRanksAndConfigurationsAreNamedToAll) {
  struct Case {
    Environment odd;  // of rank 2
    std::vector<const char*> expected;
  };
  const std::string config = "a.x=1\nmodel.name=tiny\ntraining.seq_len=4096\n";
  const Case cases[] = {
      {{{"VERSION", "1.1"}},
       {"different builds", "rank 0 (host ", "has 1.0", "rank 2 (host ", "has 1.1"}},
      {{{"WORLD", "4"}}, {"says that the world has 3 ranks, rank 2 (host ", "says 4"}},
      {{{"RANK", "1"}}, {"two processes say that they are rank 1"}},
      {{{"CONFIGURATION", "a.x=1\nmodel.name=tiny\ntraining.seq_len=2048\nz=1\n"}},
       {"training.seq_len is \"4096\" for rank 0 (host", "and \"2048\" for rank 2 (host"}},
      {{{"CONFIGURATION", config + "z=1\n"}}, {"z is not set for rank 0", "and \"1\" for rank 2"}},
  };
  for (const Case& c : cases) {
    const std::string port = std::to_string(test::free_port());
    const auto begin = Clock::now();
    std::vector<Child> ranks;
    for (int r = 0; r < 3; ++r) {
      Environment e = {{"RANK", std::to_string(r)},
                       {"WORLD_SIZE", "3"},
                       {"MASTER_ADDR", "127.0.0.1"},
                       {"MASTER_PORT", port},
                       {"CONFIGURATION", config}};
      if (r == 2) {
        for (const auto& [k, v] : c.odd) e[k] = v;
        // It may come before the others or after them.
      }
      ranks.emplace_back("meet", e);
    }
    for (const std::string& text : outcomes(ranks)) {
      EXPECT_THAT(text, StartsWith("config: "));
      for (const char* part : c.expected) EXPECT_THAT(text, HasSubstr(part));
    }
    const Clock::duration took = Clock::now() - begin;
    EXPECT_LT(took, test::soon(milliseconds(4000))) << c.expected[0];
  }
}

TEST(ControlPlane, AnotherRunAtThePortIsNotJoined) {
  const std::string port = std::to_string(test::free_port());
  const Environment base = {{"WORLD_SIZE", "2"},
                            {"MASTER_ADDR", "127.0.0.1"},
                            {"MASTER_PORT", port},
                            {"TIMEOUT_MS", "800"}};
  Environment zero = base, one = base;
  zero.insert({{"RANK", "0"}, {"RUN_ID", "7.0"}});
  one.insert({{"RANK", "1"}, {"RUN_ID", "8.0"}});
  Child a("meet", zero), b("meet", one);
  EXPECT_THAT(a.wait(), HasSubstr("1 of 2 ranks did not come"));
  EXPECT_THAT(b.wait(), HasSubstr("could not meet rank 0"));
}

TEST(ControlPlane, AKeyTimesOutByName) {
  std::vector<Child> ranks = test::start_ranks("late_for_a_key", 2);
  const std::vector<std::string> told = outcomes(ranks);
  for (const char* rank : {"0", "1"})
    EXPECT_EQ(told[rank[0] - '0'],
              "rank " + std::string(rank) + " waited 0.05 s for never, which no rank has set\n");
}

long resident_kib() {
  std::ifstream file("/proc/self/statm");
  long total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4;
}

// Many ranks as threads, each with its connection.
void many(int ranks) {
  tcp::allow_descriptors(4 * ranks + 100);
  tcp::Listener listener = tcp::listen_at(0);
  const int port = listener.port;
  const long before = resident_kib();
  std::atomic<int> met{0}, wrong{0};
  std::atomic<bool> leave{false};
  const auto begin = Clock::now();
  const std::string configuration(8000, 'x');
  std::vector<std::thread> threads;
  const auto run = [&](int rank) {
    ControlPlaneOptions o;
    o.rank = rank;
    o.world_size = ranks;
    o.address = "127.0.0.1";
    o.port = port;
    o.configuration = configuration;
    try {
      ControlPlane control(o, rank == 0 ? std::move(listener) : tcp::Listener{});
      ++met;
      if (rank == 0) control.set("id", "bytes");
      if (control.get("id", milliseconds(60'000)) != "bytes") ++wrong;
      while (!leave) std::this_thread::sleep_for(milliseconds(20));
      control.close();
    } catch (const std::exception& e) {
      if (++wrong < 4) ADD_FAILURE() << e.what();
      ++met;
    }
  };
  for (int r = 0; r < ranks; ++r) threads.emplace_back(run, r);
  while (met < ranks) std::this_thread::sleep_for(milliseconds(1));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const long used = resident_kib() - before;
  leave = true;
  for (std::thread& t : threads) t.join();
  const double all = std::chrono::duration<double>(Clock::now() - begin).count();
  EXPECT_EQ(wrong, 0);
  std::printf(
      "%d ranks, one process: met after %.2f s, %.2f s in all, %.1f MiB (%.1f KiB a rank, "
      "both sides and two threads)\n",
      ranks, seconds, all, static_cast<double>(used) / 1024, static_cast<double>(used) / ranks);
}

TEST(ControlPlane, FiveHundredAndTwelveRanksMeet) { many(512); }
TEST(ControlPlane, FourThousandAndNinetySixRanksMeet) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer's own memory of 8,192 threads needs more mappings than the "
                  "kernel gives a process (vm.max_map_count)";
#endif
  many(4096);
}

}  // namespace
}  // namespace nereus
