#include "model/rope.h"

#include <cmath>
#include <vector>

namespace nereus {

// Rounded where the references round: the frequency and the angle are f32.
RopeTables rope_tables(Stream& stream, const ModelArgs& args, int64_t positions, Buffer& buffer) {
  const int64_t half = args.qk_rope_head_dim / 2;
  buffer = Buffer(stream.device(), 2 * 4 * positions * half, "rotary tables");
  std::byte* data = buffer.data();
  const TensorView cos(data, DType::f32, {positions, half});
  const TensorView sin(data == nullptr ? nullptr : data + cos.bytes(), DType::f32,
                       {positions, half});
  if (!stream.on_meta()) {
    const RopeParameters rope = rope_parameters(args);
    const std::vector<float> frequencies = rope_frequencies(rope, args.qk_rope_head_dim);
    std::vector<float> c(static_cast<size_t>(positions * half)), s(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
      const auto p = static_cast<float>(i / static_cast<size_t>(half));
      const float angle = p * frequencies[i % static_cast<size_t>(half)];
      c[i] = static_cast<float>(std::cos(static_cast<double>(angle)) * rope.amplitude);
      s[i] = static_cast<float>(std::sin(static_cast<double>(angle)) * rope.amplitude);
    }
    copy_to_device(stream, cos, c.data());
    copy_to_device(stream, sin, s.data());
    stream.synchronize();
  }
  return {.cos = cos, .sin = sin};
}

}  // namespace nereus
