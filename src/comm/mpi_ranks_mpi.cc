#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <thread>
#include <vector>

#include "base/check.h"
#include "comm/mpi_ranks.h"
#include "comm/pairwise_ranks.h"

namespace nereus {
namespace {

constexpr int kCollectiveTag = 1, kMessageTag = 2;
constexpr int64_t kPieceBytes = int64_t{1} << 30;  // MPI counts in int
constexpr int64_t kSmall = 4096;

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  NEREUS_FAIL(kComm, "{}: {}", what,
              std::string_view(text, static_cast<size_t>(std::max(length, 0))));
}

// A message that was posted and whose memory MPI may still read.
struct Posted {
  MPI_Request request = MPI_REQUEST_NULL;
  std::vector<std::byte> bytes;
};

// Memory that MPI reads and writes in addition to the tensors.
struct GroupMemory {
  std::vector<std::vector<std::byte>> small;  // to be sent, by rank: what calls are, above all
  std::vector<std::byte> workspace;           // what comes; keeps its largest size
  std::list<Posted> outbox;
};

// What all groups of a session share.
struct MpiState {
  bool last_failed = false;                        // the last world
  std::vector<std::shared_ptr<GroupMemory>> kept;  // of groups that failed, until MPI has ended
};

class MpiTransport final : public PairwiseTransport {
 public:
  // Owns `comm`.
  MpiTransport(std::shared_ptr<MpiState> state, World& world, MPI_Comm comm)
      : state_(std::move(state)),
        world_(world),
        comm_(comm),
        memory_(std::make_shared<GroupMemory>()) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    memory_->small.resize(static_cast<size_t>(size_));
    expected_.resize(static_cast<size_t>(size_));
  }
  ~MpiTransport() override {
    if (world_.failure()) {
      state_->last_failed = true;
      state_->kept.push_back(memory_);
      return;
    }
    for (Posted& p : memory_->outbox) MPI_Wait(&p.request, MPI_STATUS_IGNORE);
    MPI_Comm_free(&comm_);
  }

  std::string library() const override { return "MPI"; }

  // One is under way to each rank, at most.
  void send(int to, const std::byte* data, int64_t bytes) override {
    if (bytes <= kSmall) {  // stays after a failure too
      std::vector<std::byte>& small = memory_->small[static_cast<size_t>(to)];
      small.assign(data, data + bytes);
      data = small.data();
    }
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      sends_.emplace_back();
      check_mpi(MPI_Isend(data + at, static_cast<int>(std::min(kPieceBytes, bytes - at)), MPI_BYTE,
                          to, kCollectiveTag, comm_, &sends_.back()),
                "MPI_Isend");
    }
  }
  bool all_sent() override {
    if (!all_done(sends_)) return false;
    sends_.clear();
    return true;
  }

  void receive(int from, std::byte* into, int64_t bytes) override {
    Expected& e = expected_[static_cast<size_t>(from)];
    e.into = into;
    e.bytes = bytes;
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      e.requests.emplace_back();
      check_mpi(MPI_Irecv(into + at, static_cast<int>(std::min(kPieceBytes, bytes - at)), MPI_BYTE,
                          from, kCollectiveTag, comm_, &e.requests.back()),
                "MPI_Irecv");
    }
  }
  void receive_from_all(int64_t bytes) override {
    std::byte* base = workspace(bytes * size_).data();
    for (int r = 0; r < size_; ++r)
      if (r != rank_) receive(r, base + r * bytes, bytes);
  }
  bool arrived(int from) override {
    return all_done(expected_[static_cast<size_t>(from)].requests);
  }
  Received received(int from) override {
    Expected& e = expected_[static_cast<size_t>(from)];
    e.requests.clear();
    return {e.into, e.bytes, nullptr};
  }

  int64_t most_posted() const override { return kPieceBytes; }
  void post(int to, std::span<const std::byte> head, std::span<const std::byte> body) override {
    std::list<Posted>& outbox = memory_->outbox;
    std::erase_if(outbox, [](Posted& p) {
      int done = 0;
      MPI_Test(&p.request, &done, MPI_STATUS_IGNORE);
      return done != 0;
    });
    Posted& p = outbox.emplace_back();
    p.bytes.reserve(head.size() + body.size());
    p.bytes.assign(head.begin(), head.end());
    p.bytes.insert(p.bytes.end(), body.begin(), body.end());
    check_mpi(MPI_Isend(p.bytes.data(), static_cast<int>(p.bytes.size()), MPI_BYTE, to, kMessageTag,
                        comm_, &p.request),
              "MPI_Isend");
  }
  bool take(int from, Received& message) override {
    int there = 0, bytes = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(from, kMessageTag, comm_, &there, &status), "MPI_Iprobe");
    if (there == 0) return false;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    std::byte* to = workspace(bytes).data();
    check_mpi(MPI_Recv(to, bytes, MPI_BYTE, from, kMessageTag, comm_, MPI_STATUS_IGNORE),
              "MPI_Recv");
    message = {to, bytes, nullptr};
    return true;
  }

  // MPI works while it is asked.
  Outcome wait(Clock::time_point deadline, FunctionRef<bool()> done, FunctionRef<bool()>) override {
    for (int64_t round = 0;; ++round) {
      if (done()) return Outcome::done;
      if (world_.failure()) return Outcome::failed;
      if (Clock::now() > deadline) return Outcome::late;
      if (round > 100) sched_yield();  // there may be more ranks than cores
    }
  }
  void forget() override {
    for (Expected& e : expected_) {
      for (MPI_Request& request : e.requests)
        if (request != MPI_REQUEST_NULL) MPI_Cancel(&request);
      e.requests.clear();
    }
    sends_.clear();
  }

  std::unique_ptr<PairwiseTransport> split(int64_t /*number*/, int color, int key,
                                           const std::vector<int>& /*members*/) override {
    MPI_Comm child = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &child),
              "MPI_Comm_split");
    if (color < 0) return nullptr;
    return std::make_unique<MpiTransport>(state_, world_, child);  // it orders ranks as we do
  }

 private:
  struct Expected {
    std::byte* into = nullptr;
    int64_t bytes = 0;
    std::vector<MPI_Request> requests;
  };

  static bool all_done(std::vector<MPI_Request>& requests) {
    int done = 0;
    check_mpi(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    return done != 0;
  }
  std::vector<std::byte>& workspace(int64_t bytes) {
    std::vector<std::byte>& w = memory_->workspace;
    if (w.size() < static_cast<size_t>(bytes)) w.resize(static_cast<size_t>(bytes));
    return w;
  }

  std::shared_ptr<MpiState> state_;
  World& world_;
  MPI_Comm comm_;
  std::shared_ptr<GroupMemory> memory_;
  int rank_ = 0, size_ = 1;
  std::vector<MPI_Request> sends_;  // of the current collective
  std::vector<Expected> expected_;  // likewise, by rank
};

}  // namespace

bool has_mpi() { return true; }

struct MpiSession::Impl {
  int rank = 0, size = 1;
  std::optional<int> abort;
  std::shared_ptr<MpiState> state = std::make_shared<MpiState>();
};

MpiSession::MpiSession() : impl_(std::make_unique<Impl>()) {
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &impl_->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &impl_->size);
}

MpiSession::~MpiSession() {
  if (impl_->abort || impl_->state->last_failed) {
    // The others get the time to say why they end.
    std::this_thread::sleep_for(std::chrono::seconds(1));
    MPI_Abort(MPI_COMM_WORLD, impl_->abort.value_or(Error(Fault::kComm, "").exit_code()));
  }
  MPI_Finalize();
}

int MpiSession::rank() const { return impl_->rank; }
int MpiSession::size() const { return impl_->size; }
void MpiSession::abort_at_end(int code) { impl_->abort = code; }

std::unique_ptr<ControlPlane> MpiSession::meet(ControlPlaneOptions options) {
  options.rank = rank();
  options.world_size = size();
  // Rank 0's port and address, or port 0 and why there is none.
  char where[1024] = {};
  tcp::Listener listener;
  std::exception_ptr wrong;
  if (rank() == 0) {
    try {
      listener = tcp::listen_at(options.port);
      if (options.address.empty()) options.address = tcp::host_name();
      NEREUS_CHECK(kConfig, options.address.size() < 200,
                   "MASTER_ADDR is longer than 200 characters");
      fmt::format_to_n(where, sizeof where - 1, "{} {}", listener.port, options.address);
    } catch (const std::exception& e) {
      wrong = std::current_exception();
      fmt::format_to_n(where, sizeof where - 1, "0 {}", failed_text(0, e.what()));
    }
  }
  check_mpi(MPI_Bcast(where, sizeof where, MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
  if (wrong) std::rethrow_exception(wrong);
  const std::string text = where;
  options.port = std::stoi(text);
  options.address = text.substr(text.find(' ') + 1);
  if (options.port == 0) throw Error(Fault::kComm, options.address);
  return std::make_unique<ControlPlane>(options, std::move(listener));
}

std::unique_ptr<Communicator> MpiSession::ranks(World& world) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  impl_->state->last_failed = false;
  return pairwise_ranks(world, std::make_unique<MpiTransport>(impl_->state, world, comm));
}

}  // namespace nereus
