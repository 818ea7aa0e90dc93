#include "base/check.h"
#include "comm/nccl_window.h"
#include "device/cuda_runtime.h"

namespace nereus {
namespace {

constexpr int64_t kAlignment = 256;  // of the flags behind the block

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

class NcclWindow final : public Window {
 public:
  NcclWindow(NcclWorld& world, NcclWorld::Group& group, const std::string& id, Stream& stream,
             int64_t bytes)
      : world_(world),
        group_(group),
        ranks_(static_cast<int>(group.members.size())),
        flags_((bytes + kAlignment - 1) / kAlignment * kAlignment),
        addresses_(stream.device(), 8 * ranks_, "addresses of a window's blocks") {
    bytes_ = bytes;
    const auto all = static_cast<size_t>(flags_ + 8 * ranks_);
    if (nccl().mem_alloc(&memory_, all) != ncclSuccess) {
      const cuda::MemoryInfo left = cuda::memory_info(world.device());
      NEREUS_FAIL(kConfig,
                  "Memory that ranks share needs {:.2f} GiB, and GPU {} has {:.2f} GiB of its "
                  "{:.2f} GiB left.",
                  gib(static_cast<int64_t>(all)), world.device(), gib(left.free), gib(left.total));
    }
    data_ = static_cast<std::byte*>(memory_);
    cuda::zero(memory_, static_cast<int64_t>(all));
    world.meet(group, id);  // all have their memory: registering waits inside NCCL
    {
      const std::lock_guard lock(group.mutex);
      const ncclResult_t result =
          group.comm == nullptr
              ? ncclInvalidUsage
              : nccl().window_register(group.comm, memory_, all, &window_, NCCL_WIN_COLL_SYMMETRIC);
      if (result != ncclSuccess)
        wrong_ = fmt::format("window of {:.2f} GiB of group {}: NCCL: {} ({})",
                             gib(static_cast<int64_t>(all)), group.name,
                             nccl().error_string(result), nccl().last_error(nullptr));
    }
    if (window_ == nullptr && wrong_.empty())
      wrong_ = "NCCL does not map the memory of group " + group.name + "'s ranks";
    if (!wrong_.empty()) {
      world.world().check();
      world.fail(wrong_);
    }
    auto* const bases = reinterpret_cast<int64_t*>(addresses_.data());
    launch_window_bases(bases, ranks_, window_, static_cast<cudaStream_t>(stream.native()));
    bases_ = ConstTensorView(addresses_.data(), DType::i64, {ranks_});
    stream.synchronize();
    world.meet(group, "the first use of " + id);  // all flags are zero
  }

  ~NcclWindow() override {
    cudaDeviceSynchronize();
    const std::lock_guard lock(group_.mutex);
    if (group_.comm != nullptr) nccl().window_deregister(group_.comm, window_);
    nccl().mem_free(memory_);
  }

  void meet(Stream& stream) override {
    Call call;
    call.kind = Call::Kind::barrier;
    call.number = static_cast<int64_t>(++meetings_);
    const auto native = static_cast<cudaStream_t>(stream.native());
    world_.world().check();
    world_.enqueue(group_, native, call, [&](ncclComm_t) {
      launch_meet({.bases = bases_.as<int64_t>(),
                   .flags = flags_,
                   .rank = group_.rank,
                   .ranks = ranks_,
                   .number = meetings_,
                   .ended = world_.ended_word()},
                  native);
      return ncclSuccess;
    });
  }

 private:
  NcclWorld& world_;
  NcclWorld::Group& group_;
  const int ranks_;
  const int64_t flags_;  // where they begin
  Buffer addresses_;
  void* memory_ = nullptr;
  ncclWindow_t window_ = nullptr;
  uint64_t meetings_ = 0;
  std::string wrong_;
};

}  // namespace

std::unique_ptr<Window> make_nccl_window(NcclWorld& world, NcclWorld::Group& group,
                                         const std::string& id, Stream& stream, int64_t bytes) {
  return std::make_unique<NcclWindow>(world, group, id, stream, bytes);
}

}  // namespace nereus
