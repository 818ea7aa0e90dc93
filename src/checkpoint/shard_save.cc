#include "checkpoint/shard_save.h"

#include <algorithm>
#include <deque>
#include <map>

#include "base/check.h"
#include "checkpoint/checksum.h"
#include "checkpoint/chunk_threads.h"
#include "device/host_memory.h"
#include "tensor/convert.h"
#include "tensor/format.h"
#include "tensor/safetensors.h"

namespace nereus {
namespace {

constexpr int64_t kChunk = int64_t{4} << 20;  // elements

// Consecutive elements of a tensor of the file.
struct Chunk {
  size_t tensor = 0;  // of the file
  const FlatState* state = nullptr;
  const StoreLayout::Slice* box = nullptr;
  int64_t flat = 0, at = 0, count = 0;
};

class Shard {
 public:
  Shard(const ShardContents& contents, Stream& stream) : contents_(contents), stream_(stream) {
    for (const FlatState& s : contents.states) add_state(s);
    for (const NamedView& v : contents.extras) {
      const Shape& shape = v.view.shape;
      add({.name = v.name, .state = SavedState::model, .dtype = v.view.dtype, .shape = shape},
          {.origin = zeros(shape), .extent = shape});
    }
  }

  Manifest write(const std::string& folder, const std::string& name) {
    if (declared_.empty()) return {};
    SafetensorsWriter writer(folder + "/" + name, declared_, metadata_);
    write_chunks(writer);
    for (size_t i = 0; i < contents_.extras.size(); ++i) write_extra(writer, i);
    for (size_t i = 0; i < slices_.size(); ++i) slices_[i].offset = writer.begin(i);
    writer.finish();
    return part({name, writer.file_bytes()});
  }

 private:
  static Shape zeros(Shape shape) {
    for (int d = 0; d < shape.rank(); ++d) shape[d] = 0;
    return shape;
  }

  size_t add(Manifest::Tensor tensor, const Manifest::Slice& slice) {
    std::string name = tensor.name;
    if (tensor.state != SavedState::model) name = fmt::format("{}.{}", name_of(tensor.state), name);
    if (const int nth = names_[name]++; nth > 0) name += fmt::format("#{}", nth);
    std::vector<int64_t> shape;
    for (int d = 0; d < slice.extent.rank(); ++d) shape.push_back(slice.extent[d]);
    if (!(slice.extent == tensor.shape))
      metadata_[name] = fmt::format("from {} of {}", slice.origin, tensor.shape);
    declared_.push_back({.name = name, .dtype = file_dtype(tensor.dtype), .shape = shape});
    tensors_.push_back(std::move(tensor));
    slices_.push_back(slice);
    return slices_.size() - 1;
  }

  void add_state(const FlatState& s) {
    const DType dtype = s.state == SavedState::model ? contents_.model_dtype : s.view.dtype;
    std::vector<size_t> places(contents_.slices.slices.size());
    for (size_t i = 0; i < places.size(); ++i) {
      const auto& [box, mine] = contents_.slices.slices[i];
      if (mine)
        places[i] = add({.name = box.name, .state = s.state, .dtype = dtype, .shape = box.whole},
                        {.origin = box.origin, .extent = box.extent});
    }
    for (const RankSlices::Piece& p : contents_.slices.pieces) {
      const auto& [box, mine] = contents_.slices.slices[p.slice];
      for (int64_t done = 0; mine && done < p.count; done += kChunk)
        chunks_.push_back({.tensor = places[p.slice],
                           .state = &s,
                           .box = &contents_.slices.slices[p.slice].box,
                           .flat = p.flat + done,
                           .at = p.at + done,
                           .count = std::min(kChunk, p.count - done)});
    }
  }

  // What one chunk passes through; several are under way.
  struct Slot {
    explicit Slot(Device device) : there(device) {}
    Buffer staging;  // pinned: what comes from a GPU
    Event there;
    std::vector<std::byte> own;       // with its signs dropped, or in another type
    std::span<const std::byte> data;  // to be written
    uint64_t checksum = 0;
  };

  // Chunks are fetched, converted and summed up by several threads while earlier ones are written.
  void write_chunks(SafetensorsWriter& writer) {
    int64_t bytes = 0;
    bool staged = false;
    for (const Chunk& c : chunks_) {
      bytes += c.count * size_of(c.state->view.dtype);
      staged = staged || from_gpu(c);
    }
    const int threads = contents_.threads > 0 ? contents_.threads : chunk_threads(bytes);
    std::deque<Slot> slots;
    for (int i = 0; i <= threads; ++i) {
      slots.emplace_back(stream_.device());
      if (staged)
        slots.back().staging =
            Buffer(stream_.device(), kChunk * 4, "checkpoint, a chunk", Buffer::Kind::pinned);
    }
    if (!stream_.on_gpu()) stream_.synchronize();
    make_and_use_chunks(
        threads, threads + 1, static_cast<int64_t>(chunks_.size()),
        [&](int slot, int64_t i) {
          make_chunk(chunks_[static_cast<size_t>(i)], slots[static_cast<size_t>(slot)]);
        },
        [&](int slot, int64_t i) {
          const Chunk& c = chunks_[static_cast<size_t>(i)];
          const Slot& made = slots[static_cast<size_t>(slot)];
          slices_[c.tensor].checksum += made.checksum;
          writer.append(c.tensor, made.data);
        });
  }

  bool from_gpu(const Chunk& c) const { return stream_.on_gpu() && !c.state->on_host; }

  void make_chunk(const Chunk& c, Slot& slot) const {
    const TensorView view = c.state->view.rows(c.flat, c.flat + c.count);
    const std::byte* data = view.data;
    if (from_gpu(c)) {
      use_on_this_thread(stream_.device());
      copy_to_host(stream_, slot.staging.data(), view);
      slot.there.record(stream_);
      slot.there.synchronize();
      data = slot.staging.data();
    }
    const DType from = view.dtype, to = tensors_[c.tensor].dtype;
    if (c.state->drop_signs) {
      slot.own.assign(data, data + c.count * size_of(from));
      for (int64_t i = 1; i <= c.count; ++i)
        slot.own[static_cast<size_t>(i * size_of(from) - 1)] &= std::byte{0x7f};  // little endian
      data = slot.own.data();
    }
    if (from != to) {
      slot.own.resize(static_cast<size_t>(c.count * size_of(to)));
      convert_from_f32(to, reinterpret_cast<const float*>(data), c.count, slot.own.data());
      data = slot.own.data();
    }
    const int64_t size = size_of(to);
    slot.checksum = checksum_of(box_of({}, c.box->whole), box_of(c.box->origin, c.box->extent),
                                c.at, c.count, size, data);
    slot.data = {data, static_cast<size_t>(c.count * size)};
  }

  void write_extra(SafetensorsWriter& writer, size_t i) {
    const ConstTensorView& view = contents_.extras[i].view;
    const size_t tensor = slices_.size() - contents_.extras.size() + i;
    std::vector<std::byte> data(static_cast<size_t>(view.bytes()));
    copy_to_host(stream_, data.data(), view);
    stream_.synchronize();
    slices_[tensor].checksum = checksum(data.data(), size_of(view.dtype), view.count(), 0);
    writer.append(tensor, data);
  }

  Manifest part(Manifest::File file) {
    Manifest one;
    one.files.push_back(std::move(file));
    std::vector<Manifest> parts;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      Manifest m;
      m.tensors.push_back(std::move(tensors_[i]));
      m.tensors.back().slices = {slices_[i]};
      parts.push_back(std::move(m));
    }
    one.tensors = merge(std::move(parts)).tensors;
    return one;
  }

  const ShardContents& contents_;
  Stream& stream_;
  std::vector<Manifest::Tensor> tensors_;  // of the file; several of one parameter
  std::vector<Manifest::Slice> slices_;    // one of each
  std::vector<SafetensorsWriter::Tensor> declared_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::map<std::string, int> names_;
  std::vector<Chunk> chunks_;
};

}  // namespace

Manifest save_shard(const std::string& folder, const std::string& name,
                    const ShardContents& contents, Stream& stream) {
  return Shard(contents, stream).write(folder, name);
}

}  // namespace nereus
