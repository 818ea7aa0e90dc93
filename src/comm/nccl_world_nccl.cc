#include <algorithm>

#include "base/check.h"
#include "comm/nccl_world.h"
#include "device/cuda_runtime.h"

namespace nereus {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

void check_cuda(cudaError_t error, const char* call) {
  NEREUS_CHECK(kDevice, error == cudaSuccess, "{} failed: {} ({})", call, cudaGetErrorString(error),
               cudaGetErrorName(error));
}

NcclWorld::NcclWorld(Peers& peers, int device, milliseconds timeout)
    : nccl_(nccl()), peers_(peers), device_(device), timeout_ms_(timeout.count()) {
  cuda::use_device(device);
  peers_.describe_by([this] {
    const std::lock_guard lock(now_mutex_);
    return now_.to_string();
  });
  watcher_ = std::thread([this] { watch(); });
}

NcclWorld::~NcclWorld() {
  peers_.describe_by(nullptr);
  stopping_ = true;
  watcher_.join();
  for (Group& g : groups_)
    if (g.comm != nullptr) nccl_.comm_abort(g.comm);
  for (const cudaEvent_t e : events_) cudaEventDestroy(e);
}

void NcclWorld::set_step(int64_t step) {
  step_ = step;
  peers_.set_step(step);
  const std::lock_guard lock(now_mutex_);
  now_.step = step;
}

// ---- groups

ncclConfig_t NcclWorld::config() const {
  ncclConfig_t c = NCCL_CONFIG_INITIALIZER;
  c.blocking = 0;
  return c;
}

NcclWorld::Group* NcclWorld::open(const std::string& name, std::vector<int> members, int rank,
                                  const ncclUniqueId& id) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  Lock lock(mutex_);
  groups_.emplace_back();
  Group& g = groups_.back();
  g.name = name;
  g.members = std::move(members);
  ncclConfig_t c = config();
  const ncclResult_t result =
      nccl_.comm_init_rank_config(&g.comm, static_cast<int>(g.members.size()), id, rank, &c);
  settle(lock, g, result, "the start");
  return &g;
}

NcclWorld::Group* NcclWorld::split(Group& parent, const std::string& name, std::vector<int> members,
                                   int color, int key) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  Lock lock(mutex_);
  if (aborted_) lock.unlock(), check();
  groups_.emplace_back();
  Group& g = groups_.back();
  g.name = name;
  g.members = std::move(members);
  ncclConfig_t c = config();
  const ncclResult_t result =
      nccl_.comm_split(parent.comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &g.comm, &c);
  settle(lock, parent, result, "split");
  if (color < 0) {
    groups_.remove_if([&](const Group& other) { return &other == &g; });
    return nullptr;
  }
  ncclResult_t state = ncclSuccess;
  if (nccl_.comm_get_async_error(g.comm, &state) == ncclSuccess) settle(lock, g, state, "split");
  return &g;
}

void NcclWorld::close(Group* group) {
  Lock lock(mutex_);
  if (group->comm != nullptr && !aborted_) {
    // Lets what is enqueued end. Others may have failed meanwhile: then the watcher aborts it.
    const auto deadline = Clock::now() + timeout();
    ncclResult_t state = nccl_.comm_finalize(group->comm);
    while (state == ncclInProgress && group->comm != nullptr && Clock::now() < deadline) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      lock.lock();
      if (group->comm != nullptr) nccl_.comm_get_async_error(group->comm, &state);
    }
    if (group->comm != nullptr)
      state == ncclSuccess ? nccl_.comm_destroy(group->comm) : nccl_.comm_abort(group->comm);
  }
  for (const Pending& p : group->pending) {
    cudaEventDestroy(p.begin);  // when they have come to pass
    cudaEventDestroy(p.end);
  }
  groups_.remove_if([&](const Group& g) { return &g == group; });
}

// ---- calls

// Until NCCL has taken what was asked of it. The lock is let go in between, for the watcher.
void NcclWorld::settle(Lock& lock, Group& g, ncclResult_t result, const char* what) {
  const auto deadline = Clock::now() + timeout();
  for (int round = 0; result == ncclInProgress; ++round) {
    const bool late = Clock::now() > deadline;
    lock.unlock();
    check();
    if (late)
      fail(fmt::format("{} of group {}: NCCL did not connect its {} ranks within {:g} s", what,
                       g.name, g.members.size(), std::chrono::duration<double>(timeout()).count()));
    std::this_thread::sleep_for(std::chrono::microseconds(round < 100 ? 10 : 500));
    lock.lock();
    if (g.comm == nullptr) break;  // aborted
    const ncclResult_t asked = nccl_.comm_get_async_error(g.comm, &result);
    if (asked != ncclSuccess) result = asked;
  }
  if (g.comm == nullptr && aborted_) {
    lock.unlock();
    check();
  }
  if (result == ncclSuccess) return;
  const std::string text = fmt::format("{} of group {}: NCCL: {} ({})", what, g.name,
                                       nccl_.error_string(result), nccl_.last_error(g.comm));
  lock.unlock();
  fail(text);
}

cudaEvent_t NcclWorld::take_event() {
  cudaEvent_t e = nullptr;
  if (events_.empty()) {
    check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  } else {
    e = events_.back();
    events_.pop_back();
  }
  return e;
}

void NcclWorld::enqueue(Group& g, cudaStream_t stream, const Call& call,
                        const std::function<ncclResult_t(ncclComm_t)>& work) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  {
    const std::lock_guard lock(now_mutex_);
    now_.group = g.name;
    now_.call = call;
    now_.inside = true;
  }
  Lock lock(mutex_);
  if (g.comm == nullptr) {
    lock.unlock();
    check();
    NEREUS_FAIL(kComm, "group {} was aborted", g.name);
  }
  Pending p{.call = call, .begin = take_event(), .end = take_event(), .begun = false, .since = {}};
  check_cuda(cudaEventRecord(p.begin, stream), "cudaEventRecord");
  const ncclResult_t result = work(g.comm);
  settle(lock, g, result, call.to_string().c_str());
  check_cuda(cudaEventRecord(p.end, stream), "cudaEventRecord");
  g.pending.push_back(p);
}

void NcclWorld::check() {
  if (const auto failure = peers_.failure()) throw Error(Fault::kComm, *failure);
}

void NcclWorld::fail(const std::string& reason) {
  const std::string first = peers_.fail(reason);
  abort_all();
  throw Error(Fault::kComm, first);
}

void NcclWorld::abort_all() {
  const Lock lock(mutex_);
  aborted_ = true;
  for (Group& g : groups_) {
    if (g.comm == nullptr) continue;
    nccl_.comm_abort(g.comm);
    g.comm = nullptr;
  }
}

// ---- the watcher

void NcclWorld::watch() {
  cudaSetDevice(device_);
  while (!stopping_) {
    std::this_thread::sleep_for(milliseconds(10));
    if (aborted_) continue;
    std::string wrong;
    {
      const Lock lock(mutex_);
      for (Group& g : groups_)
        if (wrong.empty()) wrong = look(g);
      const auto busy = [](const Group& g) { return !g.pending.empty(); };
      const auto first = std::find_if(groups_.begin(), groups_.end(), busy);
      const std::lock_guard now(now_mutex_);
      if (first == groups_.end()) {
        now_.inside = false;
      } else {  // the GPU is behind the host: what holds it up counts
        now_.group = first->name;
        now_.call = first->pending.front().call;
        now_.inside = true;
      }
    }
    if (wrong.empty() && !peers_.failure()) continue;
    if (!peers_.failure()) peers_.fail(wrong);
    abort_all();
  }
}

std::string NcclWorld::look(Group& g) {
  if (g.comm == nullptr) return "";
  ncclResult_t state = ncclSuccess;
  nccl_.comm_get_async_error(g.comm, &state);
  if (state != ncclSuccess && state != ncclInProgress)
    return fmt::format("rank {} of the world, group {}: NCCL: {} ({})", peers_.rank(), g.name,
                       nccl_.error_string(state), nccl_.last_error(g.comm));
  while (!g.pending.empty()) {
    Pending& p = g.pending.front();
    const cudaError_t done = cudaEventQuery(p.end);
    if (done != cudaSuccess && done != cudaErrorNotReady)
      return fmt::format("rank {} of the world, in {} of group {}: its GPU failed: {}",
                         peers_.rank(), p.call.to_string(), g.name, cudaGetErrorString(done));
    if (done == cudaErrorNotReady) {
      if (!p.begun && cudaEventQuery(p.begin) == cudaSuccess) {
        p.begun = true;
        p.since = Clock::now();
      }
      return p.begun && Clock::now() - p.since > timeout() ? late_text(g, p) : "";
    }
    events_.push_back(p.begin);
    events_.push_back(p.end);
    g.pending.pop_front();
  }
  return "";
}

// Who is not in what this rank is in.
std::string NcclWorld::late_text(const Group& g, const Pending& p) {
  const double seconds = std::chrono::duration<double>(timeout()).count();
  RankActivity mine;
  mine.group = g.name;
  mine.call = p.call;
  mine.inside = true;
  mine.step = step_;
  const std::vector<std::string> all = peers_.activities(g.members);
  std::vector<MissingRank> missing;
  for (size_t r = 0; r < all.size(); ++r)
    if (g.members[r] != peers_.rank() && all[r] != mine.to_string())
      missing.push_back({static_cast<int>(r), all[r].empty() ? "it says nothing" : all[r]});
  if (missing.empty())
    return fmt::format(
        "{} of group {}, step {}: all its {} ranks are in it, and it has not ended "
        "within {:g} s: the connection between their GPUs is stuck",
        p.call.to_string(), g.name, step_.load(), all.size(), seconds);
  return time_out_message(g.name, g.members, p.call, seconds, missing, step_);
}

}  // namespace nereus
