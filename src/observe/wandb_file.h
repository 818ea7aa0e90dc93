// A W&B run's file of records, run-ID.wandb, as wandb 0.31 writes and reads it: a header of seven
// bytes (":W&B", u16 0xBEE1, a version byte 0), then records in LevelDB's log framing, in blocks of
// 32,768 bytes counted from the file's start. A record is cut into chunks that end with a block:
//
//   u32 crc, u16 length, u8 type (1 whole, 2 first, 3 middle, 4 last), the chunk's bytes
//
// all little-endian, crc = zlib's CRC-32 of type and bytes. Where fewer than seven bytes are left
// of a block they are zero. The bytes of a record are a protobuf wandb_internal.Record.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/append_file.h"

namespace nereus {

class WandbFile {
 public:
  explicit WandbFile(const std::string& path);  // which is not there
  void add(std::string_view record);            // until flush() in memory
  void flush();
  const AppendFile& file() const { return file_; }

 private:
  AppendFile file_;
  int64_t size_ = 0;
  std::string pending_;
};

// Calls `visit` with each record of such a file, up to the first that is torn or not right; with
// none of one that cannot be read. Keeps a block and a record in memory.
void visit_wandb_records(const std::string& path,
                         const std::function<void(const std::string&)>& visit);

}  // namespace nereus
