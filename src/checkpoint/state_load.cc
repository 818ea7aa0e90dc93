#include "checkpoint/state_load.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>

#include "base/check.h"
#include "checkpoint/box.h"
#include "checkpoint/checksum.h"
#include "checkpoint/chunk_threads.h"
#include "checkpoint/listing.h"
#include "checkpoint/tensor_reader.h"
#include "device/host_memory.h"
#include "tensor/convert.h"
#include "tensor/format.h"

namespace nereus {
namespace {

constexpr int64_t kChunk = int64_t{4} << 20;  // elements

// Rows of one panel of a tensor of the manifest, and where they go: contiguous.
struct Task {
  size_t tensor = 0;
  Box box;
  TensorView to;
  bool on_host = false, counts = false;
};

// One thread's part of the work: its own files, memory and sums.
class TaskReader {
 public:
  TaskReader(const std::string& folder, const Manifest& m, Stream& stream)
      : manifest_(m),
        stream_(stream),
        reader_(folder, m),
        sums_(m.tensors.size()),
        copied_{Event(stream.device()), Event(stream.device())} {
    if (!stream.on_gpu()) return;
    for (Buffer& b : staging_)
      b = Buffer(stream.device(), kChunk * 4, "checkpoint, a chunk", Buffer::Kind::pinned);
  }

  // f32 and bf16 are what states are.
  void read(const Task& t) {
    const Manifest::Tensor& saved = manifest_.tensors[t.tensor];
    const bool host = t.on_host || !stream_.on_gpu();
    const bool same = saved.dtype == t.to.dtype;
    std::byte* target = t.to.data;
    if (!host) {
      use_on_this_thread(stream_.device());
      target = staging(t.to.bytes());
    }
    std::byte* raw = target;
    if (!same) {
      raw_.resize(static_cast<size_t>(t.to.count() * size_of(saved.dtype)));
      raw = raw_.data();
    }
    reader_.read(t.tensor, t.box, raw);
    if (t.counts)
      sums_[t.tensor] +=
          checksum_of(box_of({}, saved.shape), t.box, 0, t.box.count(), size_of(saved.dtype), raw);
    if (!same) convert(saved.dtype, raw, t.to.count(), t.to.dtype, target);
    if (host) return;
    copy_to_device(stream_, t.to, target);
    copied_[turn_].record(stream_);
  }

  const std::vector<uint64_t>& sums() const { return sums_; }

 private:
  void convert(DType from, const std::byte* data, int64_t n, DType to, std::byte* out) {
    if (to == DType::f32) return convert_to_f32(from, data, n, reinterpret_cast<float*>(out));
    floats_.resize(static_cast<size_t>(n));
    convert_to_f32(from, data, n, floats_.data());
    convert_from_f32(to, floats_.data(), n, out);
  }

  // Pinned memory, of two pieces that take turns.
  std::byte* staging(int64_t bytes) {
    turn_ ^= 1;
    Buffer& buffer = staging_[turn_];
    copied_[turn_].synchronize();
    if (buffer.bytes() < bytes)  // a row that is longer than a chunk
      buffer = Buffer(stream_.device(), bytes, "checkpoint, a chunk", Buffer::Kind::pinned);
    return buffer.data();
  }

  const Manifest& manifest_;
  Stream& stream_;
  TensorReader reader_;
  std::vector<uint64_t> sums_;
  std::vector<std::byte> raw_;
  std::vector<float> floats_;
  std::array<Buffer, 2> staging_;
  std::array<Event, 2> copied_;
  size_t turn_ = 0;
};

class StateLoader {
 public:
  StateLoader(const Manifest& m, const LoadTargets& targets) : targets_(targets) {
    for (size_t i = 0; i < m.tensors.size(); ++i)
      places_[{m.tensors[i].name, m.tensors[i].state}] = i;
    for (const FlatState& s : targets.states)
      for (const RankSlices::Piece& p : targets.slices.pieces) add_piece(s, p);
    for (const NamedView& v : targets.extras)
      tasks_.push_back({.tensor = place(v.name, SavedState::model),
                        .box = box_of({}, v.view.shape),
                        .to = v.view,
                        .counts = targets.counts_extras});
  }

  std::vector<uint64_t> load(const std::string& folder, const Manifest& m, Stream& stream) const {
    stream.synchronize();  // host memory of states is idle
    int64_t bytes = 0;
    for (const Task& t : tasks_) bytes += t.to.bytes();
    const int threads = targets_.threads > 0 ? targets_.threads : chunk_threads(bytes);
    std::deque<TaskReader> readers;
    for (int i = 0; i < threads; ++i) readers.emplace_back(folder, m, stream);
    on_chunk_threads(threads, static_cast<int64_t>(tasks_.size()), [&](int thread, int64_t i) {
      readers[static_cast<size_t>(thread)].read(tasks_[static_cast<size_t>(i)]);
    });
    stream.synchronize();
    std::vector<uint64_t> sums(m.tensors.size());
    for (const TaskReader& r : readers)
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += r.sums()[i];
    return sums;
  }

 private:
  size_t place(const std::string& name, SavedState state) const {
    const auto it = places_.find({name, state});
    NEREUS_CHECK(kContract, it != places_.end(), "no {} of {}", name_of(state), name);
    return it->second;
  }

  // A piece is whole rows of one panel, or of several that lie without gaps.
  void add_piece(const FlatState& state, const RankSlices::Piece& piece) {
    const auto& [slice, mine] = targets_.slices.slices[piece.slice];
    const size_t tensor = place(slice.name, state.state);
    const Box all = box_of(slice.origin, slice.extent);
    const int64_t panel = all.extent[1] * all.extent[2];
    const int64_t step = std::max<int64_t>(1, kChunk / all.extent[2]);
    for (int64_t done = 0; done < piece.count; done += panel) {
      Box part = all;
      part.origin[0] += (piece.at + done) / panel;
      part.extent[0] = 1;
      for (int64_t row = 0; row < all.extent[1]; row += step) {
        part.origin[1] = all.origin[1] + row;
        part.extent[1] = std::min(step, all.extent[1] - row);
        const int64_t flat = piece.flat + done + row * all.extent[2];
        tasks_.push_back({.tensor = tensor,
                          .box = part,
                          .to = state.view.rows(flat, flat + part.count()),
                          .on_host = state.on_host,
                          .counts = mine});
      }
    }
  }

  const LoadTargets& targets_;
  std::map<std::pair<std::string, SavedState>, size_t> places_;
  std::vector<Task> tasks_;
};

}  // namespace

void check_tensors(const Manifest& m, const std::string& folder, std::span<const Parameter> model,
                   std::span<const Parameter> extras, std::span<const SavedState> states) {
  std::map<std::pair<std::string, SavedState>, const Manifest::Tensor*> saved;
  for (const Manifest::Tensor& t : m.tensors) saved[{t.name, t.state}] = &t;
  std::vector<std::string> missing, misshapen, surplus, complaints;
  std::map<std::string, int> known;
  const auto expect = [&](const Parameter& p, SavedState state) {
    ++known[p.name];
    const auto it = saved.find({p.name, state});
    if (it == saved.end()) {
      missing.push_back(fmt::format("{} of {}", name_of(state), p.name));
    } else if (!(it->second->shape == p.shape)) {
      misshapen.push_back(
          fmt::format("{} is {} there and {} here", p.name, it->second->shape, p.shape));
    }
  };
  for (const SavedState state : states)
    for (const Parameter& p : model) expect(p, state);
  for (const Parameter& p : extras) expect(p, SavedState::model);
  for (const Manifest::Tensor& t : m.tensors)
    if (!known.contains(t.name) && t.state == SavedState::model) surplus.push_back(t.name);
  if (!missing.empty())
    complaints.push_back(
        fmt::format("{} tensors are missing: {}", missing.size(), first_of(missing)));
  if (!misshapen.empty())
    complaints.push_back(
        fmt::format("{} have another shape: {}", misshapen.size(), first_of(misshapen, "; ")));
  if (!surplus.empty())
    complaints.push_back(
        fmt::format("{} are none of this model's: {}", surplus.size(), first_of(surplus)));
  NEREUS_CHECK(kConfig, complaints.empty(),
               "{}: this checkpoint is of another model than the run's: {}. Set the model's sizes "
               "(model.flavor, [model_overrides]) as they were.",
               folder, fmt::join(complaints, "; "));
}

std::vector<uint64_t> load_states(const std::string& folder, const Manifest& m,
                                  const LoadTargets& targets, Stream& stream) {
  return StateLoader(m, targets).load(folder, m, stream);
}

}  // namespace nereus
