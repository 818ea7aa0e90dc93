#include "checkpoint/shard_save.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "base/check.h"
#include "checkpoint/checksum.h"
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

  // A chunk comes from the device while the one before it is written.
  void write_chunks(SafetensorsWriter& writer) {
    if (chunks_.empty()) return;
    std::array<Buffer, 2> staging;
    std::array<Event, 2> there{Event(stream_.device()), Event(stream_.device())};
    const auto fetch = [&](size_t i) {
      const Chunk& c = chunks_[i];
      if (c.state->on_host || !stream_.on_gpu()) return;
      Buffer& buffer = staging[i % 2];
      if (buffer.bytes() == 0)
        buffer = Buffer(stream_.device(), kChunk * 4, "checkpoint, a chunk", Buffer::Kind::pinned);
      copy_to_host(stream_, buffer.data(), c.state->view.rows(c.flat, c.flat + c.count));
      there[i % 2].record(stream_);
    };
    if (!stream_.on_gpu()) stream_.synchronize();
    fetch(0);
    for (size_t i = 0; i < chunks_.size(); ++i) {
      const Chunk& c = chunks_[i];
      if (i + 1 < chunks_.size()) fetch(i + 1);
      const bool direct = c.state->on_host || !stream_.on_gpu();
      if (!direct) there[i % 2].synchronize();
      const TensorView view = c.state->view.rows(c.flat, c.flat + c.count);
      write_chunk(writer, c, direct ? view.data : staging[i % 2].data());
    }
  }

  void write_chunk(SafetensorsWriter& writer, const Chunk& c, const std::byte* data) {
    const DType from = c.state->view.dtype, to = tensors_[c.tensor].dtype;
    if (c.state->drop_signs) {
      own_.assign(data, data + c.count * size_of(from));
      for (int64_t i = 1; i <= c.count; ++i)
        own_[static_cast<size_t>(i * size_of(from) - 1)] &= std::byte{0x7f};  // little endian
      data = own_.data();
    }
    if (from != to) {
      own_.resize(static_cast<size_t>(c.count * size_of(to)));
      convert_from_f32(to, reinterpret_cast<const float*>(data), c.count, own_.data());
      data = own_.data();
    }
    const int64_t size = size_of(to);
    slices_[c.tensor].checksum += checksum_of(
        box_of({}, c.box->whole), box_of(c.box->origin, c.box->extent), c.at, c.count, size, data);
    writer.append(c.tensor, {data, static_cast<size_t>(c.count * size)});
  }

  void write_extra(SafetensorsWriter& writer, size_t i) {
    const ConstTensorView& view = contents_.extras[i].view;
    const size_t tensor = slices_.size() - contents_.extras.size() + i;
    own_.resize(static_cast<size_t>(view.bytes()));
    copy_to_host(stream_, own_.data(), view);
    stream_.synchronize();
    slices_[tensor].checksum = checksum(own_.data(), size_of(view.dtype), view.count(), 0);
    writer.append(tensor, own_);
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
  std::vector<std::byte> own_;
};

}  // namespace

Manifest save_shard(const std::string& folder, const std::string& name,
                    const ShardContents& contents, Stream& stream) {
  return Shard(contents, stream).write(folder, name);
}

}  // namespace nereus
