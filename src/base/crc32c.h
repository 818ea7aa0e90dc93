// The checksum of TensorFlow's records, in TensorBoard's event files.
#pragma once

#include <cstdint>
#include <string_view>

namespace nereus {

// CRC-32C (Castagnoli polynomial, reflected 0x82F63B78), masked as TensorFlow does: rotated right
// by 15 bits, plus 0xA282EAD8.
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace nereus
