// The states of a ParameterStore: where masters, copies and moments are, whole or in parts, on the
// device or in host memory.
#include "base/check.h"
#include "ops/elementwise.h"
#include "ops/split_master.h"
#include "parallel/parameter_store.h"

namespace nereus {

void ParameterStore::allocate_states(Device device) {
  const Options& o = options_;
  NEREUS_CHECK(kContract, whole_masters() || (o.compute != DType::f32 && o.gradients && o.moments),
               "masters that are not whole need bf16 copies, gradients and moments");
  masters_ = Buffer(device, 4 * (whole_masters() ? elements_ : full_end_ - full_begin_),
                    "parameters (f32 masters)");
  if (o.gradients) gradients_ = Buffer(device, 4 * elements_, "gradients (f32)");
  if (o.compute != DType::f32) copies_ = Buffer(device, 2 * elements_, "parameters (bf16)");
  if (o.split_masters && !masters_on_host())
    remainders_ = Buffer(device, 2 * elements_, "parameters (f32 beyond bf16)");
  if (!o.moments) return;
  const char* const m = "optimizer (first moments)";
  const char* const v = "optimizer (second moments)";
  if (!moments_on_host()) {
    m_ = Buffer(device, size_of(o.moment_type) * elements_, m);
    v_ = Buffer(device, size_of(o.moment_type) * elements_, v);
    return;
  }
  std::vector<HostStates::State> states{{o.moment_type, m}, {o.moment_type, v}};
  if (masters_on_host()) {
    states.push_back(o.split_masters ? HostStates::State{DType::i16, "parameters (f32 beyond bf16)"}
                                     : HostStates::State{DType::f32, "parameters (f32 masters)"});
  }
  host_ = std::make_unique<HostStates>(device, elements_, states, o.offload_chunk);
}

// `on_host`: these elements of the states that are there.
ParameterStore::States ParameterStore::states_of(int64_t begin, int64_t end,
                                                 const std::vector<TensorView>& on_host) const {
  const auto part = [&](const Buffer& buffer, DType dtype) {
    const TensorView all = flat(buffer, dtype);
    return all ? all.rows(begin, end) : all;
  };
  States s{.master = {},
           .remainder = {},
           .copy = part(copies_, DType::bf16),
           .gradient = part(gradients_, DType::f32),
           .first_moment = on_host.empty() ? part(m_, options_.moment_type) : on_host[0],
           .second_moment = on_host.empty() ? part(v_, options_.moment_type) : on_host[1]};
  const bool full_precision = full_begin_ <= begin && end <= full_end_;
  if (whole_masters()) {
    s.master = part(masters_, DType::f32);
  } else if (full_precision) {
    const TensorView all(masters_.data(), DType::f32, {full_end_ - full_begin_});
    s.master = all.rows(begin - full_begin_, end - full_begin_);
  } else if (options_.split_masters) {
    s.remainder = masters_on_host() ? on_host[2] : part(remainders_, DType::i16);
  } else {
    s.master = on_host[2];
  }
  return s;
}

void ParameterStore::visit_states(Stream& stream, bool write,
                                  FunctionRef<void(const States&)> body) {
  const auto visit = [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    if (host_ == nullptr) return body(states_of(begin, end, {}));
    host_->visit(stream, begin, end, write,
                 [&](int64_t first, const std::vector<TensorView>& views) {
                   body(states_of(first, first + views[0].count(), views));
                 });
  };
  if (whole_masters()) return visit(0, elements_);
  visit(0, full_begin_);
  visit(full_begin_, full_end_);
  visit(full_end_, elements_);
}

// Where f32 masters of all elements are.
const Buffer& ParameterStore::all_masters() const {
  NEREUS_CHECK(kContract, whole_masters() || assembled_,
               "masters are asked for that are not whole, and nothing has put them together since "
               "the last step began");
  return whole_masters() ? masters_ : gradients_;
}

TensorView ParameterStore::masters() const { return flat(all_masters(), DType::f32); }

void ParameterStore::assemble_masters(Stream& stream) {
  if (whole_masters() || assembled_) return;
  visit_states(stream, false, [&](const States& s) {
    if (s.remainder) {
      ops::join_master(
          stream,
          {.x = s.gradient, .copy = s.copy, .remainder = s.remainder, .v = s.second_moment});
    } else {
      copy_to_device(stream, s.gradient, s.master.data);
    }
  });
  assembled_ = true;
}

void ParameterStore::refresh_copies(Stream& stream) {
  if (copies_.bytes() == 0) return;
  if (whole_masters())
    return ops::cast(stream, {.out = flat(copies_, DType::bf16), .x = masters()});
  all_masters();  // they are put together
  visit_states(stream, true, [&](const States& s) {
    if (s.remainder) {
      ops::split_master(
          stream,
          {.copy = s.copy, .remainder = s.remainder, .v = s.second_moment, .x = s.gradient});
    } else {
      copy_to_device(stream, s.master, s.gradient.data);
      ops::cast(stream, {.out = s.copy, .x = s.gradient});
    }
  });
}

}  // namespace nereus
