#include "train/broadcast_text.h"

#include <algorithm>

namespace nereus {

std::string broadcast_text(std::string text, int root, Communicator& group, Stream& stream) {
  if (group.size() == 1) return text;
  constexpr int64_t kPiece = int64_t{8} << 20;
  auto length = static_cast<int64_t>(text.size());
  {
    const Buffer buffer(stream.device(), size_of(DType::i64), "text between ranks");
    const TensorView count(buffer.data(), DType::i64, {1});
    copy_to_device(stream, count, &length);
    group.broadcast(stream, count, root);
    copy_to_host(stream, &length, count);
    stream.synchronize();
  }
  text.resize(static_cast<size_t>(length));
  const Buffer buffer(stream.device(), std::min(kPiece, length), "text between ranks");
  for (int64_t begin = 0; begin < length; begin += kPiece) {
    const int64_t n = std::min(kPiece, length - begin);
    const TensorView piece(buffer.data(), DType::u8, {n});
    copy_to_device(stream, piece, text.data() + begin);
    group.broadcast(stream, piece, root);
    copy_to_host(stream, text.data() + begin, piece);
    stream.synchronize();
  }
  return text;
}

}  // namespace nereus
