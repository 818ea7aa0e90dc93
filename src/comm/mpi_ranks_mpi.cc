#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <thread>

#include "base/check.h"
#include "comm/call.h"
#include "comm/host_reduce.h"
#include "comm/mpi_ranks.h"
#include "tensor/format.h"

namespace nereus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kHeaderTag = 1, kDataTag = 2, kMessageTag = 3, kAbortTag = 4;
constexpr int64_t kPieceBytes = int64_t{1} << 30;  // MPI counts in int

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  NEREUS_FAIL(kComm, "{}: {}", what,
              std::string_view(text, static_cast<size_t>(std::max(length, 0))));
}

// A message that was sent and whose memory MPI may still read.
struct Sent {
  MPI_Request request = MPI_REQUEST_NULL;
  std::vector<std::byte> bytes;
};

// Memory that MPI reads and writes beside the tensors.
struct GroupMemory {
  std::vector<std::byte> header, headers;  // mine, and everybody's by rank
  std::vector<std::byte> workspace;
  std::list<Sent> outbox;
};

// What all groups of a world share.
struct MpiWorld {
  MPI_Comm control = MPI_COMM_NULL;  // news of failures
  int rank = 0, size = 1;
  std::chrono::milliseconds timeout{0};
  int64_t step = -1;
  bool aborted = false;
  std::string reason;
  std::vector<std::shared_ptr<GroupMemory>> kept;  // after a failure, until MPI has ended

  // Tells all others, once.
  void end_all(const std::string& why) {
    if (aborted) return;
    aborted = true;
    reason = why;
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      MPI_Request request;  // nobody waits for it: `reason` stays as long as the world
      MPI_Isend(reason.data(), static_cast<int>(reason.size()), MPI_BYTE, r, kAbortTag, control,
                &request);
      MPI_Request_free(&request);
    }
  }
  // Has this or another rank failed?
  bool failed() {
    if (aborted) return true;
    int there = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kAbortTag, control, &there, &status), "MPI_Iprobe");
    if (there == 0) return false;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    reason.resize(static_cast<size_t>(bytes));
    MPI_Recv(reason.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kAbortTag, control,
             MPI_STATUS_IGNORE);
    return aborted = true;
  }
};

class MpiCommunicator final : public Communicator {
 public:
  // Owns `comm`.
  MpiCommunicator(std::shared_ptr<MpiWorld> world, MPI_Comm comm, std::string name,
                  std::vector<int> members, int rank)
      : Communicator(std::move(name), std::move(members), rank),
        world_(std::move(world)),
        comm_(comm),
        memory_(std::make_shared<GroupMemory>()),
        last_(static_cast<size_t>(size())),
        sent_(static_cast<size_t>(size())),
        received_(static_cast<size_t>(size())) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }
  ~MpiCommunicator() override {
    if (world_->aborted) {
      world_->kept.push_back(memory_);
      return;
    }
    for (Sent& s : memory_->outbox) MPI_Wait(&s.request, MPI_STATUS_IGNORE);
    MPI_Comm_free(&comm_);
  }

  void set_timeout(std::chrono::milliseconds t) override { world_->timeout = t; }
  void set_step(int64_t step) override { world_->step = step; }
  std::string library() const override { return "MPI"; }
  void give_up(const std::string& reason) override {
    world_->end_all(fmt::format("rank {} of the world failed, which ends the others: {}",
                                world_->rank, reason));
  }

 protected:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse) override {
    const auto n = static_cast<size_t>(size());
    struct Choice {
      int color, key;
    };
    Choice mine{color, key};
    std::vector<Choice> all(n);
    meet(next(Call::Kind::split, {}), {});
    for (int r = 0; r < size(); ++r) {
      post_send(reinterpret_cast<const std::byte*>(&mine), sizeof mine, r);
      post_recv(reinterpret_cast<std::byte*>(&all[static_cast<size_t>(r)]), sizeof mine, r);
    }
    finish();
    // All are here: what follows does not wait for anyone who might not come.
    MPI_Comm child = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &child),
              "MPI_Comm_split");
    if (color < 0) return nullptr;
    std::vector<int> ranks;
    for (int r = 0; r < size(); ++r)
      if (all[static_cast<size_t>(r)].color == color) ranks.push_back(r);
    std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) {
      return all[static_cast<size_t>(a)].key < all[static_cast<size_t>(b)].key;
    });
    std::vector<int> world_ranks;
    for (const int r : ranks) world_ranks.push_back(members()[static_cast<size_t>(r)]);
    const auto me = std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin();
    return std::make_unique<MpiCommunicator>(world_, child, name, std::move(world_ranks),
                                             static_cast<int>(me));
  }

  // Each rank sums its part of the elements and sends it to all.
  void do_all_reduce(Stream&, TensorView data, ReduceOp op) override {
    meet(next(Call::Kind::all_reduce, data, op), {});
    const int64_t n = data.count(), width = size_of(data.dtype);
    const auto begin = [&](int r) { return n * r / size(); };
    const int64_t mine = begin(rank() + 1) - begin(rank());
    std::byte* part = data.data + begin(rank()) * width;
    const std::vector<const std::byte*>& inputs = inputs_into_workspace(part, mine * width);
    for (int r = 0; r < size(); ++r)
      if (r != rank())
        post_send(data.data + begin(r) * width, (begin(r + 1) - begin(r)) * width, r);
    finish();
    host_reduce(op, data.dtype, part, inputs, mine);
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      post_send(part, mine * width, r);
      post_recv(data.data + begin(r) * width, (begin(r + 1) - begin(r)) * width, r);
    }
    finish();
  }

  void do_all_gather(Stream&, TensorView out, ConstTensorView in) override {
    meet(next(Call::Kind::all_gather, in), {});
    for (int r = 0; r < size(); ++r) {
      std::byte* to = out.data + r * in.bytes();
      if (r == rank()) {
        copy(to, in.data, in.bytes());
        continue;
      }
      post_send(in.data, in.bytes(), r);
      post_recv(to, in.bytes(), r);
    }
    finish();
  }

  void do_reduce_scatter(Stream&, TensorView out, ConstTensorView in, ReduceOp op) override {
    meet(next(Call::Kind::reduce_scatter, out, op), {});
    const std::vector<const std::byte*>& inputs =
        inputs_into_workspace(in.data + rank() * out.bytes(), out.bytes());
    for (int r = 0; r < size(); ++r)
      if (r != rank()) post_send(in.data + r * out.bytes(), out.bytes(), r);
    finish();
    host_reduce(op, out.dtype, out.data, inputs, out.count());
  }

  void do_all_to_all(Stream&, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    std::vector<int64_t>& counts = counts_;
    counts.assign(send_rows.begin(), send_rows.end());
    counts.insert(counts.end(), recv_rows.begin(), recv_rows.end());
    meet(next(Call::Kind::all_to_all, in), counts);
    int64_t row = size_of(in.dtype);
    for (int i = 1; i < in.rank(); ++i) row *= in.dim(i);
    const std::byte* from = in.data;
    std::byte* to = out.data;
    for (int r = 0; r < size(); ++r) {
      const int64_t sent = send_rows[static_cast<size_t>(r)] * row;
      const int64_t received = recv_rows[static_cast<size_t>(r)] * row;
      if (r == rank()) {
        copy(to, from, sent);
      } else {
        post_send(from, sent, r);
        post_recv(to, received, r);
      }
      from += sent;
      to += received;
    }
    finish();
  }

  void do_broadcast(Stream&, TensorView data, int root) override {
    meet(next(Call::Kind::broadcast, data, ReduceOp::sum, root), {});
    if (rank() != root) post_recv(data.data, data.bytes(), root);
    for (int r = 0; r < size() && rank() == root; ++r)
      if (r != root) post_send(data.data, data.bytes(), r);
    finish();
  }

  void do_barrier(Stream&) override { meet(next(Call::Kind::barrier, {}), {}); }

  void do_send(Stream&, ConstTensorView data, int to) override {
    if (world_->failed()) throw Error(Fault::kComm, world_->reason);
    std::list<Sent>& outbox = memory_->outbox;
    std::erase_if(outbox, [](Sent& s) {
      int done = 0;
      MPI_Test(&s.request, &done, MPI_STATUS_IGNORE);
      return done != 0;
    });
    const Call call =
        Call::of(Call::Kind::send, data, ++sent_[static_cast<size_t>(to)], ReduceOp::sum, to);
    const int64_t bytes = static_cast<int64_t>(sizeof call) + data.bytes();
    NEREUS_CHECK(kContract, bytes <= kPieceBytes, "send of group {}: {} is more than 1 GiB", name(),
                 data);
    outbox.emplace_back();
    Sent& s = outbox.back();
    s.bytes.resize(static_cast<size_t>(bytes));
    std::memcpy(s.bytes.data(), &call, sizeof call);
    copy(s.bytes.data() + sizeof call, data.data, data.bytes());
    check_mpi(MPI_Isend(s.bytes.data(), static_cast<int>(bytes), MPI_BYTE, to, kMessageTag, comm_,
                        &s.request),
              "MPI_Isend");
  }

  void do_recv(Stream&, TensorView data, int from) override {
    call_ = Call::of(Call::Kind::recv, data, ++received_[static_cast<size_t>(from)], ReduceOp::sum,
                     from);
    MPI_Status status;
    poll(
        [&] {
          int there = 0;
          check_mpi(MPI_Iprobe(from, kMessageTag, comm_, &there, &status), "MPI_Iprobe");
          return there != 0;
        },
        [&](int r) { return r == from; });
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    std::vector<std::byte>& message = workspace(bytes);
    check_mpi(
        MPI_Recv(message.data(), bytes, MPI_BYTE, from, kMessageTag, comm_, MPI_STATUS_IGNORE),
        "MPI_Recv");
    Call call;
    std::memcpy(&call, message.data(), sizeof call);
    const std::string wrong = message_disagreement(name(), members(), from, rank(), call, call_);
    if (!wrong.empty()) fail(wrong);
    copy(data.data, message.data() + sizeof call, data.bytes());
  }

 private:
  Call next(Call::Kind kind, ConstTensorView x, ReduceOp op = ReduceOp::sum, int peer = -1) {
    return Call::of(kind, x, ++number_, op, peer);
  }
  static void copy(std::byte* to, const std::byte* from, int64_t bytes) {
    if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  std::vector<std::byte>& workspace(int64_t bytes) {  // keeps its largest size
    std::vector<std::byte>& w = memory_->workspace;
    if (w.size() < static_cast<size_t>(bytes)) w.resize(static_cast<size_t>(bytes));
    return w;
  }

  // Receives the others' parts of `bytes` into the workspace; returns where each rank's is.
  const std::vector<const std::byte*>& inputs_into_workspace(const std::byte* mine, int64_t bytes) {
    std::byte* base = workspace(bytes * size()).data();
    pointers_.clear();
    for (int r = 0; r < size(); ++r) {
      pointers_.push_back(r == rank() ? mine : base + r * bytes);
      if (r != rank()) post_recv(base + r * bytes, bytes, r);
    }
    return pointers_;
  }

  void post_send(const std::byte* data, int64_t bytes, int to) {
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      sends_.emplace_back();
      check_mpi(MPI_Isend(data + at, static_cast<int>(std::min(kPieceBytes, bytes - at)), MPI_BYTE,
                          to, kDataTag, comm_, &sends_.back()),
                "MPI_Isend");
    }
  }
  void post_recv(std::byte* data, int64_t bytes, int from) {
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      recvs_.emplace_back();
      check_mpi(MPI_Irecv(data + at, static_cast<int>(std::min(kPieceBytes, bytes - at)), MPI_BYTE,
                          from, kDataTag, comm_, &recvs_.back()),
                "MPI_Irecv");
    }
  }
  // All that was posted.
  void finish() {
    poll([&] { return all_done(recvs_) && all_done(sends_); }, [](int) { return true; });
    recvs_.clear();
    sends_.clear();
  }
  static bool all_done(std::vector<MPI_Request>& requests) {
    int done = 0;
    check_mpi(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    return done != 0;
  }

  // Shows all others what this rank calls, and waits for what they call.
  void meet(const Call& call, std::span<const int64_t> counts) {
    call_ = call;
    if (world_->failed()) throw Error(Fault::kComm, world_->reason);
    const auto n = static_cast<size_t>(size());
    const size_t bytes = sizeof(Call) + 2 * n * sizeof(int64_t);  // of all kinds: none is cut off
    memory_->header.assign(bytes, std::byte{0});
    memory_->headers.assign(n * bytes, std::byte{0});
    std::memcpy(memory_->header.data(), &call, sizeof call);
    if (!counts.empty())
      std::memcpy(memory_->header.data() + sizeof call, counts.data(), counts.size_bytes());
    recvs_.assign(n, MPI_REQUEST_NULL);  // by rank
    for (int r = 0; r < size(); ++r) {
      std::byte* to = memory_->headers.data() + static_cast<size_t>(r) * bytes;
      if (r == rank()) {
        std::memcpy(to, memory_->header.data(), bytes);
        continue;
      }
      check_mpi(MPI_Irecv(to, static_cast<int>(bytes), MPI_BYTE, r, kHeaderTag, comm_,
                          &recvs_[static_cast<size_t>(r)]),
                "MPI_Irecv");
      sends_.emplace_back();
      check_mpi(MPI_Isend(memory_->header.data(), static_cast<int>(bytes), MPI_BYTE, r, kHeaderTag,
                          comm_, &sends_.back()),
                "MPI_Isend");
    }
    const auto arrived = [&](int r) {
      int done = 0;
      check_mpi(MPI_Test(&recvs_[static_cast<size_t>(r)], &done, MPI_STATUS_IGNORE), "MPI_Test");
      return done != 0;
    };
    int waiting_for = 0;
    poll(
        [&] {
          while (waiting_for < size() && arrived(waiting_for)) ++waiting_for;
          return waiting_for == size();
        },
        [&](int r) { return !arrived(r); });
    recvs_.clear();

    calls_.resize(n);
    tables_.resize(n);
    for (size_t r = 0; r < n; ++r) {
      std::memcpy(&calls_[r], memory_->headers.data() + r * bytes, sizeof(Call));
      last_[r] = calls_[r];
      tables_[r] =
          reinterpret_cast<const int64_t*>(memory_->headers.data() + r * bytes + sizeof(Call));
    }
    std::string wrong = disagreement(name(), members(), calls_);
    if (wrong.empty() && call.kind == Call::Kind::all_to_all)
      wrong = row_disagreement(name(), members(), call, tables_);
    if (!wrong.empty()) fail(wrong);
    finish();
  }

  // Until done(). absent(r): rank r is what this one waits for. After a failure nothing is received
  // any more into memory that goes away.
  template <class Done, class Absent>
  void poll(Done done, Absent absent) {
    const auto deadline = Clock::now() + world_->timeout;
    for (int64_t round = 0;; ++round) {
      if (done()) return;
      const bool failed = world_->failed();
      const bool late = Clock::now() > deadline;
      if (failed || late) {
        std::vector<MissingRank> missing;
        for (int r = 0; r < size() && !failed; ++r) {
          if (r == rank() || !absent(r)) continue;
          const Call& last = last_[static_cast<size_t>(r)];
          missing.push_back({r, last.kind == Call::Kind::none
                                    ? "it has called no collective of this group yet"
                                    : "it has called nothing since " + last.to_string()});
        }
        for (MPI_Request& request : recvs_)
          if (request != MPI_REQUEST_NULL) MPI_Cancel(&request);
        recvs_.clear();
        sends_.clear();
        if (failed) throw Error(Fault::kComm, world_->reason);
        fail(time_out_message(name(), members(), call_,
                              std::chrono::duration<double>(world_->timeout).count(), missing,
                              world_->step));
      }
      if (round > 100) sched_yield();  // there may be more ranks than cores
    }
  }
  [[noreturn]] void fail(const std::string& message) {
    world_->end_all(message);
    throw Error(Fault::kComm, message);
  }

  std::shared_ptr<MpiWorld> world_;
  MPI_Comm comm_;
  std::shared_ptr<GroupMemory> memory_;
  int64_t number_ = 0;
  Call call_;                               // the current one
  std::vector<Call> last_;                  // by rank: what it came to last
  std::vector<int64_t> sent_, received_;    // by peer
  std::vector<MPI_Request> sends_, recvs_;  // of the current call
  std::vector<int64_t> counts_;
  std::vector<Call> calls_;
  std::vector<const int64_t*> tables_;
  std::vector<const std::byte*> pointers_;
};

}  // namespace

bool has_mpi() { return true; }

struct MpiSession::Impl {
  std::vector<std::shared_ptr<MpiWorld>> worlds;
};

MpiSession::MpiSession() : impl_(std::make_unique<Impl>()) {
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

MpiSession::~MpiSession() {
  if (!impl_->worlds.empty() && impl_->worlds.back()->aborted) {
    // The others get the time to say why they end.
    std::this_thread::sleep_for(std::chrono::seconds(1));
    MPI_Abort(MPI_COMM_WORLD, Error(Fault::kComm, "").exit_code());
  }
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::world(std::chrono::milliseconds timeout) {
  auto world = std::make_shared<MpiWorld>();
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world->control), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(world->control, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm, &world->rank);
  MPI_Comm_size(comm, &world->size);
  world->timeout = timeout;
  impl_->worlds.push_back(world);
  std::vector<int> members(static_cast<size_t>(world->size));
  for (int r = 0; r < world->size; ++r) members[static_cast<size_t>(r)] = r;
  return std::make_unique<MpiCommunicator>(world, comm, "world", std::move(members), world->rank);
}

}  // namespace nereus
