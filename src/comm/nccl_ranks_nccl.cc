#include <algorithm>
#include <condition_variable>
#include <map>
#include <numeric>

#include "base/check.h"
#include "comm/host_bytes.h"
#include "comm/nccl_ranks.h"
#include "comm/nccl_window.h"
#include "comm/nccl_world.h"
#include "comm/split.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;

#define NEREUS_CUDA_CALL(call) check_cuda(call, #call)

cudaStream_t native(const Stream& s) { return static_cast<cudaStream_t>(s.native()); }

ncclDataType_t type_of(DType t) {
  switch (t) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    default:  // Communicator refuses to reduce the others
      return ncclUint8;
  }
}

ncclRedOp_t op_of(ReduceOp op) { return op == ReduceOp::sum ? ncclSum : ncclMax; }

struct DeviceMemory {
  std::byte* data = nullptr;
  size_t bytes = 0;
  explicit DeviceMemory(size_t n) : bytes(n) { NEREUS_CUDA_CALL(cudaMalloc(&data, n)); }
  ~DeviceMemory() { cudaFree(data); }
  DeviceMemory(DeviceMemory&& o) noexcept
      : data(std::exchange(o.data, nullptr)), bytes(std::exchange(o.bytes, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& o) noexcept {
    std::swap(data, o.data);
    std::swap(bytes, o.bytes);
    return *this;
  }
};

// One direction between two ranks: NCCL's group of the two, opened on a thread of its own when it
// is first used, since each side may come to it at another time. Sends wait in memory until then.
class Link {
 public:
  Link(NcclWorld& world, std::string name, std::string id, int from, int to)
      : world_(world), name_(std::move(name)), sends_(world.world().rank() == from) {
    // Streams of one priority share the device's queues: a send that waits for its receiver would
    // hold up kernels of this rank, and the receiver, whose own sends wait too, would never come.
    int least = 0, greatest = 0;
    NEREUS_CUDA_CALL(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    NEREUS_CUDA_CALL(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
    opener_ = std::thread([this, id = std::move(id), from, to] { open(id, from, to); });
  }
  ~Link() {
    opener_.join();
    std::unique_lock lock(mutex_);
    for (const Send& s : under_way_)
      if (s.enqueued) cudaEventSynchronize(s.sent);  // the watcher ends it when it must
    lock.unlock();
    if (group_ != nullptr) world_.close(group_);
    for (Send& s : under_way_) free_.push_back(std::move(s));
    for (Send& s : free_) {
      cudaEventDestroy(s.copied);
      cudaEventDestroy(s.sent);
    }
    cudaStreamDestroy(stream_);
  }

  // Opens it, with memory for `waiting` messages, and passes one: NCCL connects more channels for
  // a large message than for a small one, and waits for idle GPUs then.
  void prepare(size_t bytes, size_t waiting) {
    wait_until_open();
    std::unique_lock lock(mutex_);
    most_ = waiting;
    while (sends_ && free_.size() < most_) free_.push_back(make(bytes));
    const DeviceMemory received(sends_ ? 0 : bytes);
    world_.enqueue(*group_, stream_, {}, [&](ncclComm_t comm) {
      return sends_ ? nccl().send(free_.front().memory.data, bytes, ncclUint8, 1, comm, stream_)
                    : nccl().recv(received.data, bytes, ncclUint8, 0, comm, stream_);
    });
    lock.unlock();
    NEREUS_CUDA_CALL(cudaStreamSynchronize(stream_));  // the watcher ends it when it must
    world_.world().check();
  }

  void send(cudaStream_t from, const Call& call, ConstTensorView data) {
    const auto bytes = static_cast<size_t>(data.bytes());
    std::unique_lock lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    while (under_way_.size() >= most_) free_first(lock);
    while (!under_way_.empty() && under_way_.front().enqueued &&
           cudaEventQuery(under_way_.front().sent) == cudaSuccess)
      free_first(lock);
    Send s = take(bytes);
    s.call = call;
    s.bytes = bytes;
    s.enqueued = false;
    NEREUS_CUDA_CALL(
        cudaMemcpyAsync(s.memory.data, data.data, bytes, cudaMemcpyDeviceToDevice, from));
    NEREUS_CUDA_CALL(cudaEventRecord(s.copied, from));
    under_way_.push_back(std::move(s));
    if (group_ != nullptr) enqueue(under_way_.back());
  }

  void recv(cudaStream_t to, const Call& call, TensorView data) {
    wait_until_open();
    world_.enqueue(*group_, to, call, [&](ncclComm_t comm) {
      return nccl().recv(data.data, static_cast<size_t>(data.bytes()), ncclUint8, 0, comm, to);
    });
  }

 private:
  struct Send {
    DeviceMemory memory;
    size_t bytes = 0;
    cudaEvent_t copied = nullptr, sent = nullptr;
    bool enqueued = false;
    Call call;
  };

  void wait_until_open() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return group_ != nullptr || error_; });
    if (error_) std::rethrow_exception(error_);
  }

  // Both sides are here, each on a thread of its own: the first message, which connects them, waits
  // for no other.
  void open(const std::string& id, int from, int to) {
    try {
      NcclWorld::Group* group =
          world_.open(name_, id, {from, to}, sends_ ? 0 : 1, link_sms(from, to));
      const DeviceMemory byte(1);
      world_.enqueue(*group, stream_, {}, [&](ncclComm_t comm) {
        return sends_ ? nccl().send(byte.data, 1, ncclUint8, 1, comm, stream_)
                      : nccl().recv(byte.data, 1, ncclUint8, 0, comm, stream_);
      });
      NEREUS_CUDA_CALL(cudaStreamSynchronize(stream_));
      const std::lock_guard lock(mutex_);
      group_ = group;
      for (Send& s : under_way_) enqueue(s);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    opened_.notify_all();
  }

  void enqueue(Send& s) {
    NEREUS_CUDA_CALL(cudaStreamWaitEvent(stream_, s.copied));
    world_.enqueue(*group_, stream_, s.call, [&](ncclComm_t comm) {
      return nccl().send(s.memory.data, s.bytes, ncclUint8, 1, comm, stream_);
    });
    NEREUS_CUDA_CALL(cudaEventRecord(s.sent, stream_));
    s.enqueued = true;
  }

  Send take(size_t bytes) {
    const auto fits = std::find_if(free_.begin(), free_.end(),
                                   [&](const Send& s) { return s.memory.bytes >= bytes; });
    if (fits != free_.end()) {
      Send s = std::move(*fits);
      free_.erase(fits);
      return s;
    }
    return make(bytes);
  }

  static Send make(size_t bytes) {
    Send s{.memory = DeviceMemory(bytes), .call = {}};
    NEREUS_CUDA_CALL(cudaEventCreateWithFlags(&s.copied, cudaEventDisableTiming));
    NEREUS_CUDA_CALL(cudaEventCreateWithFlags(&s.sent, cudaEventDisableTiming));
    return s;
  }

  // Waits until the oldest has been sent.
  void free_first(std::unique_lock<std::mutex>& lock) {
    opened_.wait(lock, [&] { return group_ != nullptr || error_; });
    if (error_) std::rethrow_exception(error_);
    Send& first = under_way_.front();
    if (first.enqueued) cudaEventSynchronize(first.sent);
    world_.world().check();
    free_.push_back(std::move(first));
    under_way_.pop_front();
  }

  NcclWorld& world_;
  const std::string name_;
  const bool sends_;
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;
  std::condition_variable opened_;
  NcclWorld::Group* group_ = nullptr;
  std::exception_ptr error_;
  size_t most_ = kMostSends;  // under way
  std::deque<Send> under_way_;
  std::vector<Send> free_;
  std::thread opener_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclWorld> world, NcclWorld::Group* group)
      : Communicator(group->name, group->members, group->rank),
        world_(std::move(world)),
        group_(group),
        calls_(size()),
        one_(sizeof(int64_t)) {}
  ~NcclCommunicator() override {
    links_.clear();
    world_->close(group_);
  }

  ncclComm_t handle() const { return group_->comm; }
  std::string library() const override {
    int version = 0;
    nccl().get_version(&version);
    return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }

 protected:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse use) override {
    const std::vector<int64_t> all = exchange(calls_.collective(Call::Kind::split), color, key);
    std::vector<SplitChoice> choices;
    for (size_t r = 0; r < all.size(); r += 2)
      choices.push_back({static_cast<int>(all[r]), static_cast<int>(all[r + 1])});
    Part part = part_of(choices, rank(), members());
    // NCCL orders equal keys by rank, as we do.
    NcclWorld::Group* child = world_->split(
        *group_, name, fmt::format("{}/{}.{}", group_->id, calls_.collectives(), color),
        std::move(part.members), part.rank, color, key, most_sms(use));
    return child == nullptr ? nullptr : std::make_unique<NcclCommunicator>(world_, child);
  }

  void do_all_reduce(Stream& s, TensorView data, ReduceOp op) override {
    enqueue(s, calls_.collective(Call::Kind::all_reduce, data, op), [&](ncclComm_t comm) {
      return nccl().all_reduce(data.data, data.data, static_cast<size_t>(data.count()),
                               type_of(data.dtype), op_of(op), comm, native(s));
    });
  }

  void do_all_gather(Stream& s, TensorView out, ConstTensorView in) override {
    enqueue(s, calls_.collective(Call::Kind::all_gather, in), [&](ncclComm_t comm) {
      return nccl().all_gather(in.data, out.data, static_cast<size_t>(in.bytes()), ncclUint8, comm,
                               native(s));
    });
  }

  void do_reduce_scatter(Stream& s, TensorView out, ConstTensorView in, ReduceOp op) override {
    enqueue(s, calls_.collective(Call::Kind::reduce_scatter, out, op), [&](ncclComm_t comm) {
      return nccl().reduce_scatter(in.data, out.data, static_cast<size_t>(out.count()),
                                   type_of(out.dtype), op_of(op), comm, native(s));
    });
  }

  void do_all_to_all(Stream& s, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    const int64_t row = row_bytes(in);
    if (!exchanged_) world_->meet(*group_, "all_to_all");  // the first connects all pairs
    exchanged_ = true;
    enqueue(s, calls_.collective(Call::Kind::all_to_all, in), [&](ncclComm_t comm) {
      const std::byte* from = in.data;
      std::byte* to = out.data;
      nccl().group_start();
      ncclResult_t first_wrong = ncclSuccess;
      const auto keep = [&](ncclResult_t r) {
        if (r != ncclSuccess && r != ncclInProgress && first_wrong == ncclSuccess) first_wrong = r;
      };
      for (int r = 0; r < size(); ++r) {
        const auto sent = static_cast<size_t>(send_rows[static_cast<size_t>(r)] * row);
        const auto received = static_cast<size_t>(recv_rows[static_cast<size_t>(r)] * row);
        if (sent > 0) keep(nccl().send(from, sent, ncclUint8, r, comm, native(s)));
        if (received > 0) keep(nccl().recv(to, received, ncclUint8, r, comm, native(s)));
        from += sent;
        to += received;
      }
      const ncclResult_t end = nccl().group_end();
      return first_wrong == ncclSuccess ? end : first_wrong;
    });
  }

  void do_broadcast(Stream& s, TensorView data, int root) override {
    enqueue(s, calls_.collective(Call::Kind::broadcast, data, ReduceOp::sum, root),
            [&](ncclComm_t comm) {
              return nccl().broadcast(data.data, data.data, static_cast<size_t>(data.bytes()),
                                      ncclUint8, root, comm, native(s));
            });
  }

  void do_barrier(Stream& s) override {
    enqueue(s, calls_.collective(Call::Kind::barrier), [&](ncclComm_t comm) {
      return nccl().all_reduce(one_.data, one_.data, 1, ncclInt32, ncclMax, comm, native(s));
    });
  }

  // One after the other: while a link opens, and while memory is made, the ranks' GPUs must not
  // wait for one another.
  void connect(std::span<const std::pair<int, int>> pairs, int64_t bytes, int waiting) override {
    world_->world().check();
    for (const auto& [from, to] : pairs)
      if (from == rank() || to == rank())
        link(from, to).prepare(static_cast<size_t>(bytes), static_cast<size_t>(waiting));
  }

  bool shares_memory() const override {
    return nccl().has_windows && group_->comm != nullptr &&
           nccl().team_lsa(group_->comm).nRanks == size();
  }
  std::unique_ptr<Window> do_window(Stream& s, int64_t bytes) override {
    check_stream(s);
    const std::string id = fmt::format("window {} of {} bytes", calls_.next(), bytes);
    return make_nccl_window(*world_, *group_, id, s, bytes);
  }

  void do_send(Stream& s, ConstTensorView data, int to) override {
    check_stream(s);
    world_->world().check();
    const Call call = calls_.send(data, to);
    if (data.bytes() > 0) link(rank(), to).send(native(s), call, data);
  }

  void do_recv(Stream& s, TensorView data, int from) override {
    check_stream(s);
    world_->world().check();
    const Call call = calls_.recv(data, from);
    if (data.bytes() > 0) link(from, rank()).recv(native(s), call, data);
  }

 private:
  void check_stream(const Stream& s) const {
    NEREUS_CHECK(kContract, s.device() == Device::cuda(world_->device()),
                 "group {} is GPU {}'s; the stream is of {}", name(), world_->device(),
                 s.on_gpu() ? "another GPU" : "the CPU");
  }
  template <class Work>
  void enqueue(Stream& s, const Call& call, const Work& work) {
    check_stream(s);
    world_->world().check();
    world_->enqueue(*group_, native(s), call, work);
  }

  Link& link(int from, int to) {
    NEREUS_CUDA_CALL(cudaSetDevice(world_->device()));
    std::unique_ptr<Link>& l = links_[{from, to}];
    if (!l)
      l = std::make_unique<Link>(*world_, fmt::format("{} ({} to {})", name(), from, to),
                                 fmt::format("{}/{}-{}", group_->id, from, to),
                                 members()[static_cast<size_t>(from)],
                                 members()[static_cast<size_t>(to)]);
    return *l;
  }

  // Two numbers of every rank, on the host.
  std::vector<int64_t> exchange(const Call& call, int64_t a, int64_t b) {
    world_->world().check();
    NEREUS_CUDA_CALL(cudaSetDevice(world_->device()));
    const auto n = static_cast<size_t>(size());
    const DeviceMemory memory(2 * n * sizeof(int64_t));
    std::vector<int64_t> all(2 * n);
    const int64_t mine[2] = {a, b};
    std::byte* at = memory.data + static_cast<size_t>(rank()) * sizeof mine;
    cudaStream_t stream = nullptr;
    NEREUS_CUDA_CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    NEREUS_CUDA_CALL(cudaMemcpyAsync(at, mine, sizeof mine, cudaMemcpyHostToDevice, stream));
    world_->enqueue(*group_, stream, call, [&](ncclComm_t comm) {
      return nccl().all_gather(at, memory.data, sizeof mine, ncclUint8, comm, stream);
    });
    NEREUS_CUDA_CALL(
        cudaMemcpyAsync(all.data(), memory.data, memory.bytes, cudaMemcpyDeviceToHost, stream));
    const cudaError_t done = cudaStreamSynchronize(stream);  // the watcher ends it when it must
    cudaStreamDestroy(stream);
    world_->world().check();
    check_cuda(done, "cudaStreamSynchronize");
    return all;
  }

  std::shared_ptr<NcclWorld> world_;
  NcclWorld::Group* group_;
  CallCounter calls_;
  bool exchanged_ = false;                                      // by all_to_all, once
  DeviceMemory one_;                                            // for barriers
  std::map<std::pair<int, int>, std::unique_ptr<Link>> links_;  // by sender and receiver
};

}  // namespace

std::unique_ptr<Communicator> nccl_ranks(World& world, int device) {
  auto shared = std::make_shared<NcclWorld>(world, device);
  std::vector<int> members(static_cast<size_t>(world.size()));
  std::iota(members.begin(), members.end(), 0);
  NcclWorld::Group* group =
      shared->open("world", "world", std::move(members), world.rank(), most_sms(GroupUse::records));
  return std::make_unique<NcclCommunicator>(std::move(shared), group);
}

void* nccl_handle(const Communicator& c) {
  const auto* of_nccl = dynamic_cast<const NcclCommunicator*>(&c);
  return of_nccl == nullptr ? nullptr : of_nccl->handle();
}

}  // namespace nereus
