#include "observe/wandb_file.h"

#include <zlib.h>

#include <algorithm>
#include <fstream>

#include "base/little_endian.h"

namespace nereus {
namespace {

constexpr int64_t kBlock = 32768, kHeader = 7, kFileHeader = 7;
enum Type : uint8_t { whole = 1, first = 2, middle = 3, last = 4 };

uint32_t chunk_crc(uint8_t type, std::string_view bytes) {
  const uLong of_type = ::crc32(0, &type, 1);
  return static_cast<uint32_t>(::crc32(of_type, reinterpret_cast<const Bytef*>(bytes.data()),
                                       static_cast<uInt>(bytes.size())));
}

}  // namespace

WandbFile::WandbFile(const std::string& path) : file_(path) {
  pending_ = std::string(":W&B\xE1\xBE\0", kFileHeader);
  size_ = kFileHeader;
}

void WandbFile::add(std::string_view record) {
  for (bool begins = true;;) {
    const int64_t left = kBlock - size_ % kBlock;
    if (left < kHeader) {
      pending_.append(static_cast<size_t>(left), '\0');
      size_ += left;
      continue;
    }
    const size_t room = std::min(record.size(), static_cast<size_t>(left - kHeader));
    const bool ends = room == record.size();
    const uint8_t type = begins ? (ends ? whole : first) : (ends ? last : middle);
    const std::string_view chunk = record.substr(0, room);
    append_little_endian(pending_, chunk_crc(type, chunk));
    append_little_endian(pending_, static_cast<uint16_t>(room));
    pending_.push_back(static_cast<char>(type));
    pending_ += chunk;
    size_ += kHeader + static_cast<int64_t>(room);
    if (ends) return;
    record.remove_prefix(room);
    begins = false;
  }
}

void WandbFile::flush() {
  file_.write(pending_);
  pending_.clear();
}

void visit_wandb_records(const std::string& path,
                         const std::function<void(const std::string&)>& visit) {
  std::ifstream in(path, std::ios::binary);
  std::string block(kBlock, '\0'), record;
  for (size_t at = kFileHeader;; at = 0) {
    in.read(block.data(), kBlock);
    const std::string_view all =
        std::string_view(block).substr(0, static_cast<size_t>(in.gcount()));
    while (at + kHeader <= all.size()) {
      const std::string_view header = all.substr(at, kHeader);
      const size_t length = little_endian<uint16_t>(header.substr(4, 2));
      const auto type = static_cast<uint8_t>(header[6]);
      at += kHeader;
      if (at + length > all.size()) return;
      const std::string_view chunk = all.substr(at, length);
      if (little_endian<uint32_t>(header.substr(0, 4)) != chunk_crc(type, chunk)) return;
      at += length;
      record += chunk;
      if (type == first || type == middle) continue;
      visit(record);
      record.clear();
    }
    if (all.size() < kBlock) return;
  }
}

}  // namespace nereus
