#include "base/error.h"
#include "tensor/safetensors.h"
#include "test/fuzz.h"

// A header is refused with an Error of the user's, or every entry lies within the bytes.
NEREUS_FUZZ(safetensors_header, data) {
  const std::span<const std::byte> bytes = std::as_bytes(data);
  try {
    const nereus::SafetensorsFile file = nereus::SafetensorsFile::parse(bytes, "fuzz");
    for (const nereus::SafetensorsEntry& e : file.entries()) {
      const bool inside = e.data.data() >= bytes.data() &&
                          e.data.data() + e.data.size() <= bytes.data() + bytes.size();
      const bool known = e.dtype != nereus::FileDType::other;
      if (!inside ||
          (known && e.count() * nereus::size_of(e.dtype) != static_cast<int64_t>(e.data.size())))
        __builtin_trap();
    }
  } catch (const nereus::Error& e) {
    if (e.fault() != nereus::Fault::kConfig) __builtin_trap();
  }
}
