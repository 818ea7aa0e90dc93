#include <algorithm>
#include <cstring>

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

NcclWorld::NcclWorld(World& world, int device) : nccl_(nccl()), world_(world), device_(device) {
  cuda::use_device(device);
  check_cuda(cudaHostAlloc(&ended_word_, sizeof(int), cudaHostAllocMapped), "cudaHostAlloc");
  *ended_word_ = 0;
  world_.describe_by([this] { return activity_.at(world_.step()).to_string(); });
  watcher_ = std::thread([this] { watch(); });
}

NcclWorld::~NcclWorld() {
  world_.describe_by(nullptr);
  stopping_ = true;
  watcher_.join();
  for (std::thread& t : aborters_) t.join();
  for (const auto& g : groups_)
    if (g->comm != nullptr) nccl_.comm_abort(g->comm);
  for (const cudaEvent_t e : events_) cudaEventDestroy(e);
  cudaFreeHost(ended_word_);
}

// ---- groups

namespace {
ncclConfig_t config_of(int sm_count) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.minCTAs = 1;
  config.maxCTAs = sm_count;
  return config;
}
}  // namespace

NcclWorld::Group& NcclWorld::add(const std::string& name, const std::string& id,
                                 std::vector<int> members, int rank) {
  const std::lock_guard lock(groups_mutex_);
  Group& g = *groups_.emplace_back(std::make_shared<Group>());
  g.name = name;
  g.id = id;
  g.members = std::move(members);
  g.rank = rank;
  return g;
}

NcclWorld::Group* NcclWorld::open(const std::string& name, const std::string& id,
                                  std::vector<int> members, int rank, int sm_count) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  Group& g = add(name, id, std::move(members), rank);
  const std::string key = fmt::format("nccl/{}", id);
  ncclUniqueId secret;
  if (rank == 0) {
    check_nccl(g, nccl_.get_unique_id(&secret), "the start");
    world_.set(key, std::string(secret.internal, sizeof secret.internal));
  }
  meet(g, "start");
  if (rank != 0) {
    const std::string bytes = world_.get(key, world_.timeout());
    std::memcpy(secret.internal, bytes.data(), sizeof secret.internal);
  }
  ncclConfig_t config = config_of(sm_count);
  std::unique_lock lock(g.mutex);
  const ncclResult_t result =
      nccl_.comm_init_rank(&g.comm, static_cast<int>(g.members.size()), secret, rank, &config);
  lock.unlock();
  check_nccl(g, result, "the start");
  return &g;
}

NcclWorld::Group* NcclWorld::split(Group& parent, const std::string& name, const std::string& id,
                                   std::vector<int> members, int rank, int color, int key,
                                   int sm_count) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  ncclComm_t comm = nullptr;
  {
    std::unique_lock lock(parent.mutex);
    if (parent.comm == nullptr) lock.unlock(), world_.check();
    ncclConfig_t config = config_of(sm_count);
    const ncclResult_t result =
        nccl_.comm_split(parent.comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &comm, &config);
    lock.unlock();
    check_nccl(parent, result, "split");
  }
  if (color < 0) return nullptr;
  Group& g = add(name, id, std::move(members), rank);
  const std::lock_guard lock(g.mutex);
  g.comm = comm;
  return &g;
}

void NcclWorld::close(Group* group) {
  // What is enqueued ends first, by itself or by an abort: NCCL would wait for it where no abort
  // can reach it.
  for (;;) {
    std::unique_lock lock(group->mutex);
    if (group->comm == nullptr || group->pending.empty()) {
      if (group->comm != nullptr) nccl_.comm_destroy(group->comm);
      group->comm = nullptr;
      break;
    }
    lock.unlock();
    std::this_thread::sleep_for(milliseconds(1));  // the watcher takes them off
  }
  for (const Pending& p : group->pending) give_events(p);
  const std::lock_guard lock(groups_mutex_);
  groups_.remove_if([&](const auto& g) { return g.get() == group; });
}

// ---- calls

void NcclWorld::check_nccl(const Group& g, ncclResult_t result, const std::string& what) {
  if (result == ncclSuccess) return;
  world_.check();  // an abort makes errors of its own
  fail(fmt::format("{} of group {}, rank {} of the world: NCCL: {} ({})", what, g.name,
                   world_.rank(), nccl_.error_string(result), nccl_.last_error(nullptr)));
}

void NcclWorld::meet(const Group& g, const std::string& what) {
  world_.meet(fmt::format("nccl/{}/{}", g.id, what), fmt::format("{} of group {}", what, g.name),
              g.members);
}

cudaEvent_t NcclWorld::take_event() {
  const std::lock_guard lock(events_mutex_);
  cudaEvent_t e = nullptr;
  if (events_.empty()) {
    check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  } else {
    e = events_.back();
    events_.pop_back();
  }
  return e;
}

void NcclWorld::give_events(const Pending& p) {
  const std::lock_guard lock(events_mutex_);
  events_.push_back(p.begin);
  events_.push_back(p.end);
}

void NcclWorld::enqueue(Group& g, cudaStream_t stream, const Call& call, const Work& work) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  if (call.kind != Call::Kind::none) activity_.enter(g.name, call);
  std::unique_lock lock(g.mutex);
  if (g.comm == nullptr) {
    lock.unlock();
    world_.check();
    NEREUS_FAIL(kComm, "group {} was aborted", g.name);
  }
  Pending p{.call = call, .begin = take_event(), .end = take_event(), .begun = false, .since = {}};
  check_cuda(cudaEventRecord(p.begin, stream), "cudaEventRecord");
  const ncclResult_t result = work(g.comm);
  check_cuda(cudaEventRecord(p.end, stream), "cudaEventRecord");
  g.pending.push_back(p);
  lock.unlock();
  check_nccl(g, result, call.to_string());
}

void NcclWorld::fail(const std::string& reason) {
  const std::string first = world_.lost(reason);
  abort_all();
  throw Error(Fault::kComm, first);
}

// All at once: an abort tells its group's kernels to end, and then frees memory, for which CUDA
// waits until the GPU has nothing left to do. One after the other, the first would wait for the
// kernels of the second.
void NcclWorld::abort_all() {
  if (aborted_.exchange(true)) return;
  std::atomic_ref<int>(*ended_word_).store(1);
  const std::lock_guard all(groups_mutex_);
  for (const std::shared_ptr<Group>& g : groups_)
    aborters_.emplace_back([this, g] {
      cudaSetDevice(device_);
      const std::lock_guard lock(g->mutex);  // another thread may be inside NCCL with it
      if (g->comm != nullptr) nccl_.comm_abort(g->comm);
      g->comm = nullptr;
    });
}

// ---- the watcher

void NcclWorld::watch() {
  cudaSetDevice(device_);
  while (!stopping_) {
    std::this_thread::sleep_for(milliseconds(5));
    if (aborted_) continue;
    std::string wrong;
    {
      const std::lock_guard all(groups_mutex_);
      const Group* busy = nullptr;  // one that waits, rather than one whose stream is behind it
      Call call;
      bool begun = false;
      for (const std::shared_ptr<Group>& g : groups_) {
        const std::unique_lock lock(g->mutex, std::try_to_lock);
        if (!lock.owns_lock() || !wrong.empty()) continue;
        wrong = look(*g);
        if (g->pending.empty() || g->pending.front().call.kind == Call::Kind::none) continue;
        if (busy != nullptr && (begun || !g->pending.front().begun)) continue;
        busy = g.get();
        call = g->pending.front().call;
        begun = g->pending.front().begun;
      }
      // Where the GPU is behind the host, what holds it up counts.
      if (busy != nullptr) activity_.enter(busy->name, call);
      if (busy == nullptr) activity_.leave();
    }
    if (wrong.empty() && !world_.failure()) continue;
    if (!world_.failure()) world_.lost(wrong);
    abort_all();
  }
}

std::string NcclWorld::look(Group& g) {
  if (g.comm == nullptr) return "";
  ncclResult_t state = ncclSuccess;
  nccl_.comm_get_async_error(g.comm, &state);
  if (state != ncclSuccess && state != ncclInProgress)
    return fmt::format("rank {} of the world, group {}: NCCL: {} ({})", world_.rank(), g.name,
                       nccl_.error_string(state), nccl_.last_error(g.comm));
  while (!g.pending.empty()) {
    Pending& p = g.pending.front();
    const cudaError_t done = cudaEventQuery(p.end);
    if (done != cudaSuccess && done != cudaErrorNotReady)
      return fmt::format("rank {} of the world, in {} of group {}: its GPU failed: {}",
                         world_.rank(), p.call.to_string(), g.name, cudaGetErrorString(done));
    if (done == cudaErrorNotReady) {
      if (!p.begun && cudaEventQuery(p.begin) == cudaSuccess) {
        p.begun = true;
        p.since = Clock::now();
      }
      return p.begun && Clock::now() - p.since > world_.timeout() ? late_text(g, p) : "";
    }
    give_events(p);
    g.pending.pop_front();
  }
  return "";
}

// Who is not in what this rank is in.
std::string NcclWorld::late_text(const Group& g, const Pending& p) {
  const double seconds = std::chrono::duration<double>(world_.timeout()).count();
  RankActivity mine;
  mine.group = g.name;
  mine.call = p.call;
  mine.inside = true;
  mine.step = world_.step();
  const std::vector<std::string> all = world_.activities(g.members);
  std::vector<MissingRank> missing;
  for (size_t r = 0; r < all.size(); ++r)
    if (g.members[r] != world_.rank() && all[r] != mine.to_string())
      missing.push_back({static_cast<int>(r), all[r].empty() ? "it says nothing" : all[r]});
  if (missing.empty())
    return fmt::format(
        "{} of group {}, step {}: all its {} ranks are in it, and it has not ended "
        "within {:g} s: the connection between their GPUs is stuck",
        p.call.to_string(), g.name, world_.step(), all.size(), seconds);
  return time_out_message(g.name, g.members, p.call, seconds, missing, world_.step());
}

}  // namespace nereus
