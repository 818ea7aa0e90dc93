#include "comm/communicator.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "device/trace.h"
#include "tensor/format.h"

namespace nereus {
namespace {

bool can_reduce(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f64 || t == DType::i32 ||
         t == DType::i64;
}

int64_t sum(std::span<const int64_t> v) { return std::accumulate(v.begin(), v.end(), int64_t{0}); }

// Of one rank nothing is exchanged, and nothing recorded.
TraceRecorder* trace_of(const Communicator& group, const Stream& s) {
  return group.size() > 1 ? s.trace() : nullptr;
}

bool any_negative(std::span<const int64_t> v) {
  return std::any_of(v.begin(), v.end(), [](int64_t n) { return n < 0; });
}

}  // namespace

void Communicator::check(const Stream& stream, const char* what, ConstTensorView x) const {
  NEREUS_CHECK(kContract, static_cast<bool>(x), "{} of group {}: there is no tensor", what, name_);
  NEREUS_CHECK(kContract, x.contiguous(), "{} of group {}: {} is not contiguous", what, name_, x);
  NEREUS_CHECK(kContract, x.data != nullptr || x.count() == 0 || stream.on_meta(),
               "{} of group {}: {} has no memory", what, name_, x);
}

std::unique_ptr<Communicator> Communicator::split(const std::string& name, int color, int key,
                                                  GroupUse use) {
  NEREUS_CHECK(kContract, color >= -1, "split of group {}: color {}; -1 or more is needed", name_,
               color);
  return do_split(name, color, key, use);
}

void Communicator::all_reduce(Stream& s, TensorView data, ReduceOp op) {
  check(s, "all_reduce", data);
  NEREUS_CHECK(kContract, can_reduce(data.dtype), "all_reduce of group {}: {} cannot be reduced",
               name_, data);
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "all_reduce",
                         {.bytes = data.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_all_reduce(s, data, op);
}

void Communicator::all_gather(Stream& s, TensorView out, ConstTensorView in) {
  check(s, "all_gather", out);
  check(s, "all_gather", in);
  NEREUS_CHECK(kContract, out.dtype == in.dtype && out.count() == in.count() * size(),
               "all_gather of group {}: out is {}, in is {}; out must hold {} times in, one of "
               "each rank",
               name_, out, in, size());
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "all_gather",
                         {.bytes = out.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_all_gather(s, out, in);
}

void Communicator::reduce_scatter(Stream& s, TensorView out, ConstTensorView in, ReduceOp op) {
  check(s, "reduce_scatter", out);
  check(s, "reduce_scatter", in);
  NEREUS_CHECK(kContract,
               out.dtype == in.dtype && can_reduce(in.dtype) && in.count() == out.count() * size(),
               "reduce_scatter of group {}: out is {}, in is {}; in must hold {} times out, of a "
               "type that can be reduced",
               name_, out, in, size());
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "reduce_scatter",
                         {.bytes = in.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_reduce_scatter(s, out, in, op);
}

void Communicator::all_to_all(Stream& s, TensorView out, ConstTensorView in,
                              std::span<const int64_t> send_rows,
                              std::span<const int64_t> recv_rows) {
  check(s, "all_to_all", out);
  check(s, "all_to_all", in);
  const auto n = static_cast<size_t>(size());
  NEREUS_CHECK(kContract, send_rows.size() == n && recv_rows.size() == n,
               "all_to_all of group {}: {} and {} row counts, {} ranks", name_, send_rows.size(),
               recv_rows.size(), n);
  NEREUS_CHECK(kContract, !any_negative(send_rows) && !any_negative(recv_rows),
               "all_to_all of group {}: a row count is negative", name_);
  Shape row_in = in.shape, row_out = out.shape;
  row_in[0] = row_out[0] = 1;
  NEREUS_CHECK(kContract, out.dtype == in.dtype && row_in == row_out,
               "all_to_all of group {}: out is {}, in is {}; their rows must be alike", name_, out,
               in);
  NEREUS_CHECK(kContract, sum(send_rows) <= in.dim(0) && sum(recv_rows) <= out.dim(0),
               "all_to_all of group {}: {} rows to send of {}, {} to receive into {}", name_,
               sum(send_rows), in, sum(recv_rows), out);
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "all_to_all",
                         {.bytes = in.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_all_to_all(s, out, in, send_rows, recv_rows);
}

void Communicator::broadcast(Stream& s, TensorView data, int root) {
  check(s, "broadcast", data);
  NEREUS_CHECK(kContract, root >= 0 && root < size(), "broadcast of group {}: root {} of {} ranks",
               name_, root, size());
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "broadcast",
                         {.bytes = data.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_broadcast(s, data, root);
}

void Communicator::send(Stream& s, ConstTensorView data, int to) {
  check(s, "send", data);
  NEREUS_CHECK(kContract, to >= 0 && to < size() && to != rank_,
               "send of group {}: from rank {} to rank {} of {}", name_, rank_, to, size());
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "send",
                         {.bytes = data.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_send(s, data, to);
}

void Communicator::recv(Stream& s, TensorView data, int from) {
  check(s, "recv", data);
  NEREUS_CHECK(kContract, from >= 0 && from < size() && from != rank_,
               "recv of group {}: at rank {} from rank {} of {}", name_, rank_, from, size());
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "recv",
                         {.bytes = data.bytes(), .group = name_.c_str()});
  if (!s.on_meta()) do_recv(s, data, from);
}

void Communicator::barrier(Stream& s) {
  const TraceRange range(trace_of(*this, s), TraceKind::collective, "barrier",
                         {.group = name_.c_str()});
  if (!s.on_meta()) do_barrier(s);
}

std::unique_ptr<Window> Communicator::window(Stream& s, int64_t bytes) {
  NEREUS_CHECK(kContract, shares_memory() && !s.on_meta() && bytes >= 0,
               "window of group {}: {} bytes; its ranks {}", name_, bytes,
               shares_memory() ? "share memory" : "do not see each other's memory");
  return do_window(s, bytes);
}

std::unique_ptr<Window> Communicator::do_window(Stream&, int64_t) {
  NEREUS_FAIL(kContract, "group {} has no windows", name_);
}

}  // namespace nereus
