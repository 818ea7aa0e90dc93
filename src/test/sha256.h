// SHA-256, for the golden data's hashes.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace nereus::test {

std::string sha256(std::span<const std::byte> bytes);  // 64 hexadecimal digits

}  // namespace nereus::test
