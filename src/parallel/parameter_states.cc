#include "parallel/parameter_states.h"

#include <algorithm>

#include "base/check.h"
#include "base/philox.h"
#include "ops/elementwise.h"
#include "ops/init.h"
#include "ops/split_master.h"

namespace nereus {
namespace {

// A slice in a buffer that begins with element `first` of the layout.
NamedView view_of(const StoreLayout::Slice& s, const Buffer& buffer, DType dtype,
                  int64_t first = 0) {
  std::byte* const data = buffer.data();
  TensorView view(data == nullptr ? data : data + (s.flat - first) * size_of(dtype), dtype,
                  s.extent);
  if (s.extent.rank() == 3) view.stride[0] = s.panel_stride;
  return {s.name, view, s.origin, s.whole};
}

TensorView at(const Buffer& buffer, int64_t element, DType dtype, const Shape& shape) {
  std::byte* const data = buffer.data();
  return TensorView(data == nullptr ? data : data + element * size_of(dtype), dtype, shape);
}

void draw(Stream& stream, const Parameter& parameter, const TensorView& masters,
          const std::vector<StoreLayout::Run>& runs, uint64_t seed) {
  const Initial& initial = parameter.initial;
  for (const StoreLayout::Run& run : runs) {
    const TensorView out = masters.rows(run.flat, run.flat + run.count);
    if (initial.std == 0) {
      ops::fill(stream, {.out = out, .value = initial.mean});
      continue;
    }
    ops::init_normal(stream, {.out = out,
                              .seed = seed,
                              .stream = hash_name(parameter.name),
                              .first = run.index,
                              .mean = static_cast<float>(initial.mean),
                              .std = static_cast<float>(initial.std),
                              .low = static_cast<float>(initial.low),
                              .high = static_cast<float>(initial.high)});
  }
}

}  // namespace

ParameterStates::ParameterStates(Device device, const StoreLayout& layout, const ShardIndex& mine,
                                 const Options& o)
    : layout_(layout), mine_(mine), options_(o) {
  NEREUS_CHECK(kContract, whole_masters() || (o.compute != DType::f32 && o.gradients && o.moments),
               "masters that are not whole need bf16 copies, gradients and moments");
  const int64_t n = layout.elements();
  masters_ = Buffer(device, 4 * (whole_masters() ? n : layout.f32_masters().count()),
                    "parameters (f32 masters)");
  const InPlace& p = o.in_place;
  NEREUS_CHECK(kContract, !p.copies || (o.compute != DType::f32 && o.offload == Offload::none),
               "copies in place need bf16 and states that do not pass through the device");
  if (o.gradients)
    gradients_ = Buffer(device, 4 * (p.gradients ? p.gradient_elements : n), "gradients (f32)");
  if (o.compute != DType::f32)
    copies_ = Buffer(device, 2 * (p.copies ? p.copy_elements : n), "parameters (bf16)");
  if (o.split_masters && !masters_on_host())
    remainders_ = Buffer(device, 2 * n, "parameters (f32 beyond bf16)");
  if (!o.moments) return;
  const char* const m = "optimizer (first moments)";
  const char* const v = "optimizer (second moments)";
  if (!moments_on_host()) {
    m_ = Buffer(device, size_of(o.moment_type) * n, m);
    v_ = Buffer(device, size_of(o.moment_type) * n, v);
    return;
  }
  std::vector<HostStates::State> states{{o.moment_type, m}, {o.moment_type, v}};
  if (masters_on_host()) {
    states.push_back(o.split_masters ? HostStates::State{DType::i16, "parameters (f32 beyond bf16)"}
                                     : HostStates::State{DType::f32, "parameters (f32 masters)"});
  }
  host_ = std::make_unique<HostStates>(device, n, states, o.offload_chunk);
}

TensorView ParameterStates::flat(const Buffer& buffer, DType dtype) const {
  if (buffer.bytes() == 0) return {};
  return TensorView(buffer.data(), dtype, {layout_.elements()});
}

// Of a buffer that begins with element `first` of the layout.
TensorView ParameterStates::shard(const Buffer& buffer, DType dtype, size_t i,
                                  int64_t first) const {
  std::byte* const data = buffer.data();
  return TensorView(data == nullptr ? data : data + (layout_.offset(i) - first) * size_of(dtype),
                    dtype, layout_.shard_shape(i));
}

int64_t ParameterStates::copy_place(size_t i) const {
  return in_place().copies ? in_place().copy_begin[i] + block(i) : layout_.offset(i);
}

TensorView ParameterStates::unsharded_copy(size_t i) const {
  return at(copies_, in_place().copy_begin[i], DType::bf16, layout_.padded_shape(i));
}
TensorView ParameterStates::unsharded_gradient(size_t i) const {
  return at(gradients_, in_place().gradient_begin[i], DType::f32, layout_.padded_shape(i));
}
TensorView ParameterStates::block_of_gradient(size_t i) const {
  return at(gradients_, in_place().gradient_begin[i] + block(i), DType::f32,
            layout_.shard_shape(i));
}

// From the first on, each towards the start: what it overwrites has been moved. Between tensors, up
// to the next one's alignment, is zero, as everywhere in flat buffers.
void ParameterStates::move_gradients_together(Stream& stream) const {
  const std::vector<size_t>& order = in_place().by_offset;
  for (size_t n = 0; n < order.size(); ++n) {
    const size_t i = order[n];
    const int64_t count = layout_.shard_shape(i).count(), to = layout_.offset(i),
                  from = in_place().gradient_begin[i] + block(i), step = from - to;
    for (int64_t k = 0; k < count; k += step) {
      const int64_t part = std::min(step, count - k);
      copy_rows(stream, at(gradients_, to + k, DType::f32, {part}),
                at(gradients_, from + k, DType::f32, {part}));
    }
    const int64_t end = n + 1 < order.size() ? layout_.offset(order[n + 1]) : layout_.elements();
    if (to + count < end)
      ops::fill(stream,
                {.out = at(gradients_, to + count, DType::f32, {end - to - count}), .value = 0});
  }
}

TensorView ParameterStates::read(size_t i) const {
  switch (layout_.read_format(i)) {
    case ReadFormat::bf16_copy:
      return at(copies_, copy_place(i), DType::bf16, layout_.shard_shape(i));
    case ReadFormat::f32_master:
      break;
  }
  return shard(masters_, DType::f32, i, first_master());
}

// Where f32 masters of all elements are.
const Buffer& ParameterStates::all_masters() const {
  NEREUS_CHECK(kContract, whole_masters() || assembled_,
               "masters are asked for that are not whole, and nothing has put them together since "
               "the last step began");
  return whole_masters() ? masters_ : gradients_;
}

std::vector<NamedView> ParameterStates::master_views() const {
  std::vector<NamedView> out;
  const Buffer& masters = all_masters();
  for (const StoreLayout::Slice& s : layout_.slices(mine_))
    out.push_back(view_of(s, masters, DType::f32));
  return out;
}

std::vector<NamedView> ParameterStates::gradient_views() const {
  std::vector<NamedView> out;
  for (const StoreLayout::Slice& s : layout_.slices(mine_))
    out.push_back(view_of(s, gradients_, DType::f32));
  return out;
}

std::vector<NamedView> ParameterStates::read_views() const {
  std::vector<NamedView> out;
  for (const StoreLayout::Slice& s : layout_.slices(mine_)) {
    const auto i = static_cast<size_t>(s.tensor);
    const bool copy = layout_.read_format(i) == ReadFormat::bf16_copy;
    out.push_back(copy ? view_of(s, copies_, DType::bf16, layout_.offset(i) - copy_place(i))
                       : view_of(s, masters_, DType::f32, first_master()));
  }
  return out;
}

// `on_host`: these elements of the states that are there.
ParameterStates::States ParameterStates::states_of(int64_t begin, int64_t end,
                                                   const std::vector<TensorView>& on_host) const {
  const auto part = [&](const Buffer& buffer, DType dtype) {
    const TensorView all = flat(buffer, dtype);
    return all ? all.rows(begin, end) : all;
  };
  States s{.first = begin,
           .copy = in_place().copies ? TensorView() : part(copies_, DType::bf16),
           .gradient = part(gradients_, DType::f32),
           .first_moment = on_host.empty() ? part(m_, options_.moment_type) : on_host[0],
           .second_moment = on_host.empty() ? part(v_, options_.moment_type) : on_host[1]};
  const FlatRange full = layout_.f32_masters();
  if (whole_masters()) {
    s.master = part(masters_, DType::f32);
  } else if (full.begin <= begin && end <= full.end) {
    const TensorView all(masters_.data(), DType::f32, {full.count()});
    s.master = all.rows(begin - full.begin, end - full.begin);
  } else if (options_.split_masters) {
    s.remainder = masters_on_host() ? on_host[2] : part(remainders_, DType::i16);
  } else {
    s.master = on_host[2];
  }
  return s;
}

// The state of elements [begin, end) of tensor i, where copies are in place.
ParameterStates::States ParameterStates::states_in_place(size_t i, int64_t begin,
                                                         int64_t end) const {
  States s = states_of(begin, end, {});
  if (layout_.read_format(i) == ReadFormat::bf16_copy)
    s.copy = at(copies_, copy_place(i) + begin - layout_.offset(i), DType::bf16, {end - begin});
  return s;
}

// Elements that are apart in some state: those of one range are together in all.
std::vector<FlatRange> ParameterStates::together() const {
  const FlatRange full = layout_.f32_masters();
  std::vector<FlatRange> out;
  for (const FlatRange& r :
       whole_masters()
           ? std::vector<FlatRange>{{0, layout_.elements()}}
           : std::vector<FlatRange>{{0, full.begin}, full, {full.end, layout_.elements()}})
    if (r.count() > 0) out.push_back(r);
  return out;
}

void ParameterStates::visit(Stream& stream, bool write, FunctionRef<void(const States&)> body) {
  const std::shared_ptr<CopyBeside> copied = write ? std::move(beside_) : nullptr;
  // Elements from `begin` on that may be changed, at most to `end`.
  const auto part = [&](int64_t begin, int64_t end) {
    return copied ? copied->wait(stream, begin, end) : end;
  };
  if (in_place().copies) {
    for (const size_t i : in_place().by_offset) {
      const int64_t end = layout_.offset(i) + layout_.shard_shape(i).count();
      for (int64_t at = layout_.offset(i), next = 0; at < end; at = next) {
        next = part(at, end);
        body(states_in_place(i, at, next));
      }
    }
    return;
  }
  for (const FlatRange& r : together()) {
    if (host_ != nullptr) {
      host_->visit(
          stream, r.begin, r.end, write,
          [&](int64_t first, const std::vector<TensorView>& views) {
            const int64_t end = first + views[0].count();
            for (int64_t at = first; at < end;) at = part(at, end);
            body(states_of(first, end, views));
          },
          copied.get());
      continue;
    }
    for (int64_t at = r.begin, next = 0; at < r.end; at = next) {
      next = part(at, r.end);
      body(states_of(at, next, {}));
    }
  }
}

std::vector<ParameterStates::Kept> ParameterStates::kept() const {
  std::vector<Kept> out;
  const auto add = [&](int64_t count, States s) {
    s.gradient = {};
    out.push_back({s, count, moments_on_host(), masters_on_host()});
  };
  if (in_place().copies) {
    for (const size_t i : in_place().by_offset) {
      const int64_t begin = layout_.offset(i), count = layout_.shard_shape(i).count();
      add(count, states_in_place(i, begin, begin + count));
    }
    return out;
  }
  for (const FlatRange& r : together()) {
    std::vector<TensorView> host;
    for (size_t i = 0; host_ != nullptr && i < host_->size(); ++i)
      host.push_back(host_->host(i).rows(r.begin, r.end));
    add(r.count(), states_of(r.begin, r.end, host));
    const FlatRange full = layout_.f32_masters();
    if (r == full) out.back().masters_on_host = false;
  }
  return out;
}

void ParameterStates::assemble_masters(Stream& stream) {
  if (whole_masters() || assembled_) return;
  visit(stream, false, [&](const States& s) {
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

ParameterStates::Moments ParameterStates::moments() const {
  if (!options_.moments) return {};
  Moments out{.on_host = moments_on_host(), .has_signs = options_.split_masters};
  out.first = out.on_host ? host_->host(0) : flat(m_, options_.moment_type);
  out.second = out.on_host ? host_->host(1) : flat(v_, options_.moment_type);
  return out;
}

void ParameterStates::initialize(Stream& stream, uint64_t seed) {
  begin_load();
  const TensorView all = masters();
  for (size_t i = 0; i < layout_.size(); ++i) {
    const std::vector<StoreLayout::Slice> slices = layout_.slices(i, mine_);
    for (const ParameterPart& part : layout_.tensors()[i].parts)
      for (const StoreLayout::Slice& s : slices)
        if (s.name == part.parameter.name)
          draw(stream, part.parameter, all, StoreLayout::runs(s), seed);
  }
  refresh_copies(stream);
}

void ParameterStates::refresh_copies(Stream& stream) {
  if (copies_.bytes() == 0) return;
  if (whole_masters() && !in_place().copies)
    return ops::cast(stream, {.out = flat(copies_, DType::bf16), .x = masters()});
  if (whole_masters())
    return visit(stream, true, [&](const States& s) {
      if (s.copy) ops::cast(stream, {.out = s.copy, .x = s.master});
    });
  all_masters();  // they are put together
  visit(stream, true, [&](const States& s) {
    if (s.remainder) {
      ops::split_master(
          stream,
          {.copy = s.copy, .remainder = s.remainder, .v = s.second_moment, .x = s.gradient});
    } else {
      copy_to_device(stream, s.master, s.gradient.data);
      if (s.copy) ops::cast(stream, {.out = s.copy, .x = s.gradient});
    }
  });
}

ParameterStates::Bytes ParameterStates::bytes() const {
  Bytes b{.masters = masters_.bytes(),
          .gradients = gradients_.bytes(),
          .moments = m_.bytes() + v_.bytes(),
          .copies = copies_.bytes(),
          .remainders = remainders_.bytes()};
  if (host_ == nullptr) return b;
  b.chunks = host_->device_bytes();
  b.host_moments = host_->host_bytes(0) + host_->host_bytes(1);
  if (masters_on_host())
    (options_.split_masters ? b.host_remainders : b.host_masters) = host_->host_bytes(2);
  return b;
}

}  // namespace nereus
