#include "engine/compose_ranks_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <sstream>
#include <thread>

#include "base/check.h"
#include "comm/mpi_ranks.h"
#include "comm/nccl_ranks.h"
#include "comm/socket_ranks.h"
#include "comm/thread_ranks.h"
#include "control/control_plane.h"
#include "control/tcp.h"
#include "device/cuda_runtime.h"
#include "engine/compose_run_test.h"
#include "test/child_process.h"
#include "test/started_by_mpi.h"
#include "test/test_tensor.h"

namespace nereus::compose {
namespace {

constexpr std::chrono::seconds kTimeout{100};

void run_sockets_here(int ranks, FunctionRef<void(Communicator& all)> work) {
  tcp::allow_descriptors(2 * ranks * ranks + 100);
  tcp::Listener listener = tcp::listen_at(0);
  const int port = listener.port;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto rank = [&](int r) {
    try {
      ControlPlane control({.rank = r, .world_size = ranks, .address = "127.0.0.1", .port = port},
                           r == 0 ? std::move(listener) : tcp::Listener{});
      const auto world = world_of(control, kTimeout);
      {
        const auto all = socket_ranks(control, *world);
        run_as_rank(*world, [&] { work(*all); });
      }
      control.close();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(rank, r);
  for (std::thread& t : threads) t.join();
  if (failure) std::rethrow_exception(failure);
}

// From what each rank has of the tensors, all of them, on every rank. `one`: one rank's outcome,
// which has the same tensors.
void make_whole(Outcome& mine, const Outcome& one, Communicator& all, Stream& stream) {
  std::vector<std::pair<std::string, double*>> places;
  const auto add = [&](const std::string& what, std::vector<double>& values, size_t count) {
    values.resize(count, std::nan(""));
    for (double& v : values) places.emplace_back(what, &v);
  };
  add("losses", mine.losses, one.losses.size());
  add("norms", mine.norms, one.norms.size());
  add("loads", mine.loads, one.loads.size());
  places.emplace_back("validation loss", &mine.validation);
  for (const auto& [name, values] : one.before) {
    add(name + " before", mine.before[name], values.size());
    add(name, mine.after[name], values.size());
  }
  // The highest that a rank has, and the lowest with the other sign.
  const auto n = static_cast<int64_t>(places.size());
  std::vector<double> sides(2 * places.size(), -HUGE_VAL);
  for (size_t i = 0; i < places.size(); ++i)
    if (const double v = *places[i].second; !std::isnan(v)) {
      sides[i] = v;
      sides[places.size() + i] = -v;
    }
  const Buffer buffer(stream.device(), 2 * n * size_of(DType::f64), "outcome");
  const TensorView view(buffer.data(), DType::f64, {2 * n});
  copy_to_device(stream, view, sides.data());
  all.all_reduce(stream, view, ReduceOp::max);
  copy_to_host(stream, sides.data(), view);
  stream.synchronize();
  for (size_t i = 0; i < places.size(); ++i) {
    const auto& [what, value] = places[i];
    *value = sides[i];
    const std::string apart = what + ": ranks differ";
    if (sides[i] != -sides[places.size() + i] && (mine.wrong.empty() || mine.wrong.back() != apart))
      mine.wrong.push_back(apart);
  }
}

// Ranks go on alike.
std::vector<std::string> agreed(std::vector<std::string> wrong, Communicator& all, Stream& stream) {
  auto count = static_cast<int64_t>(wrong.size());
  const Buffer buffer(stream.device(), size_of(DType::i64), "count");
  const TensorView view(buffer.data(), DType::i64, {1});
  copy_to_device(stream, view, &count);
  all.all_reduce(stream, view, ReduceOp::max);
  copy_to_host(stream, &count, view);
  stream.synchronize();
  if (wrong.empty() && count > 0) wrong.emplace_back("wrong on another rank alone");
  return wrong;
}

std::vector<std::string> compare(const Draw& draw, int noise, Communicator& all, Stream& stream) {
  const Outcome one = run_one_rank(draw, noise, stream.device());
  Outcome layout = run_process(draw, noise, all, stream.device());
  make_whole(layout, one, all, stream);
  std::vector<std::string> wrong = agreed(differences(draw, layout, one), all, stream);
  if (wrong.empty()) return wrong;
  std::vector<Outcome> apart;
  for (int other = 1; other <= 3; ++other)
    apart.push_back(run_one_rank(draw, 10 + other, stream.device()));
  return agreed(differences(draw, layout, one, apart), all, stream);
}

std::vector<uint64_t> fitting(int processes) {
  std::vector<uint64_t> out;
  for (const uint64_t number : numbers().all())
    if (fits_processes(Draw(number), processes)) out.push_back(number);
  return out;
}

// ---- processes that the test starts: they meet through sockets, or NCCL where there are GPUs

constexpr const char* kDraws = "NEREUS_TEST_DRAWS";

int gpus() {
  if constexpr (kHasCuda) return cuda::device_count();
  return 0;
}

const test::ChildFunction child("compose", [] {
  try {
    std::vector<uint64_t> draws;
    std::istringstream in(test::given(kDraws));
    for (uint64_t number = 0; in >> number;) draws.push_back(number);
    const test::ChildRank me = test::this_child_rank();
    ControlPlane control({.rank = me.rank,
                          .world_size = me.world_size,
                          .address = me.address,
                          .port = me.port,
                          .rendezvous_timeout = kTimeout});
    const auto world = world_of(control, kTimeout);
    const auto work = [&](Communicator& all, Device device) {
      run_as_rank(*world, [&] {
        check_draws_of_processes(draws, all, device, [](uint64_t number, const Verdict& v) {
          test::tell(fmt::format("{} {}", number,
                                 v.tie ? "tie" : fmt::to_string(fmt::join(v.wrong, "; "))));
        });
      });
      world->check();
    };
    if (gpus() < me.world_size) {
      work(*socket_ranks(control, *world), Device::cpu());
    } else if constexpr (kHasCuda) {
      work(*nccl_ranks(*world, me.rank), Device::cuda(me.rank));
    }
    control.close();
  } catch (const std::exception& e) {
    test::tell(std::string("failed: ") + e.what());
  }
});

// Verdicts of the draws from the first on, as far as the processes came.
std::vector<Verdict> verdicts(std::span<const uint64_t> draws, int processes,
                              std::string& failures) {
  std::vector<test::Child> ranks =
      test::start_ranks("compose", processes, {{kDraws, fmt::to_string(fmt::join(draws, " "))}});
  std::vector<Verdict> out;
  failures.clear();
  for (size_t r = 0; r < ranks.size(); ++r) {
    std::istringstream in(ranks[r].wait());
    for (std::string line; std::getline(in, line);) {
      const std::string number =
          out.size() < draws.size() ? fmt::format("{} ", draws[out.size()]) : "";
      if (r > 0 || number.empty() || !line.starts_with(number)) {
        failures += fmt::format("rank {}: {}\n  ", r, line);
        continue;
      }
      const std::string what = line.substr(number.size());
      Verdict& v = out.emplace_back(Verdict{.tie = what == "tie"});
      if (!v.tie && !what.empty()) v.wrong = {what};
    }
    if (ranks[r].status() != 0)
      failures += fmt::format("rank {} ended with {}\n  ", r, ranks[r].status());
  }
  return out;
}

TEST(Compose, LayoutsOfProcessesComputeWhatOneRankDoes) {
  constexpr size_t kOrdinary = 6, kAtOnce = 8;
  const int processes = gpus() >= 2 ? std::min(gpus(), 4) : 4;
  std::vector<uint64_t> draws = fitting(processes);
  if (numbers().asked) {
    fmt::print("{} processes {}\n", processes,
               gpus() >= 2 ? "with a GPU each, by NCCL" : "on the CPU, by sockets");
  } else {
    draws.resize(std::min(draws.size(), kOrdinary));
  }
  Report report;
  std::string failures;
  for (size_t next = 0; next < draws.size();) {
    const auto some = std::span(draws).subspan(next, std::min(kAtOnce, draws.size() - next));
    const std::vector<Verdict> done = verdicts(some, processes, failures);
    for (const Verdict& v : done) report.add(draws[next++], v);
    if (done.size() < some.size()) {
      report.add(draws[next++], {.wrong = {"processes ended", failures}});
    } else {
      EXPECT_EQ(failures, "");
    }
  }
  report.end();
}

// ---- processes of mpirun

TEST(ComposeByMpi, LayoutsOfProcessesComputeWhatOneRankDoes) {
  if (!has_mpi() || !test::started_by_mpi()) GTEST_SKIP() << "not started by mpirun";
  MpiSession session;
  const auto control = session.meet({.address = "127.0.0.1"});
  const auto world = world_of(*control, kTimeout);
  {
    const auto all = session.ranks(*world);
    std::vector<uint64_t> draws = fitting(all->size());
    if (!numbers().asked) draws.resize(std::min<size_t>(draws.size(), 8));
    Report report;
    run_as_rank(*world, [&] {
      check_draws_of_processes(draws, *all, Device::cpu(),
                               [&](uint64_t number, const Verdict& v) { report.add(number, v); });
    });
    if (all->rank() == 0) report.end();
  }
  control->close();
}

}  // namespace

void run_ranks_here(int ranks, bool sockets, FunctionRef<void(Communicator& all)> work) {
  if (sockets) return run_sockets_here(ranks, work);
  run_thread_ranks(ranks, {.timeout = kTimeout}, work);
}

bool fits_processes(const Draw& draw, int processes) {
  return draw.ranks > 1 && draw.ranks <= processes;
}

void check_draws_of_processes(const std::vector<uint64_t>& numbers, Communicator& all,
                              Device device,
                              FunctionRef<void(uint64_t number, const Verdict&)> report) {
  const Quiet quiet;
  Stream stream = test::stream(device);
  for (const uint64_t number : numbers) {
    const Draw draw(number);
    if (!fits_processes(draw, all.size())) continue;
    {
      const auto mine = all.split("draw", all.rank() < draw.ranks ? 0 : -1, all.rank());
      if (mine) {
        const Verdict v =
            judge(draw, [&](const Draw& d, int noise) { return compare(d, noise, *mine, stream); });
        if (all.rank() == 0) report(number, v);
      }
    }
    all.barrier(stream);
    stream.synchronize();
  }
}

}  // namespace nereus::compose
