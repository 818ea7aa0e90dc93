// An arena hands out tensors from one block of memory, last in, first out. It owns no memory and
// allocates none: if one step fits, all do.
//
// An arena without memory (measuring) hands out views without data and only counts: running a step
// over measuring arenas on the meta device gives the memory that the step needs, to the byte and by
// name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace nereus {

class Arena {
 public:
  static constexpr int64_t kAlignment = 256;  // bytes; what TMA, cuBLASLt and AVX-512 ask, at most

  struct Entry {
    const char* what;  // a literal
    int64_t bytes;     // rounded up to kAlignment
  };

  // A measuring arena.
  explicit Arena(std::string name);
  // An arena over `bytes` at `base` (aligned to kAlignment), which must outlive it.
  Arena(std::string name, std::byte* base, int64_t bytes);

  // Throws Error{kContract} that lists the owners when the arena is exhausted. Sizes are measured
  // before the first step, so exhaustion is a bug, not a wrong setting.
  TensorView take(DType, const Shape&, const char* what);

  // Two arenas over one block: `this` grows from its start, `other` from its end, and it is their
  // sum that must fit. Both are over the same block, or both measuring; neither may move
  // afterwards.
  void share(Arena& other);
  // The highest sum of what the two arenas held; of this one alone when it shares nothing.
  int64_t shared_peak_bytes() const { return shared_peak_; }
  // The same since the last call, from what is held now on.
  int64_t take_recent_peak();

  // A place to return to: everything taken after mark() is given back by release().
  using Mark = size_t;
  Mark mark() const { return entries_.size(); }
  void release(Mark);

  // The same with its arena, for who gives back later what others take from here on.
  struct Place {
    Arena* arena = nullptr;
    Mark mark = 0;
    void release() const { arena->release(mark); }
  };
  Place here() { return {this, mark()}; }

  // Moves to other memory of as many bytes. Nothing may be taken, and it shares no block.
  void move_to(std::byte* base);

  // Called with the memory that release() gives back. A device that overwrites it there
  // (poison_released) shows views that are read after their scope. Must not throw.
  void on_release(std::function<void(std::byte*, int64_t bytes)> overwrite) {
    on_release_ = std::move(overwrite);
  }

  // Releases, at the end of the block, what was taken in it.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
    ~Scope() { arena_.release(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    Mark mark_;
  };

  const std::string& name() const { return name_; }
  bool measuring() const { return base_ == nullptr; }
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }
  int64_t capacity_bytes() const { return capacity_; }
  // Who held what at the high-water mark, summed by name, largest first; of both when two share a
  // block. Measuring arenas only.
  std::vector<Entry> peak_entries() const;

 private:
  std::vector<Entry> all_entries() const;

  std::string name_;
  std::byte* base_ = nullptr;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  int64_t shared_peak_ = 0;
  int64_t recent_peak_ = 0;  // of the two, as shared_peak_
  Arena* other_ = nullptr;   // that shares the block
  bool from_end_ = false;
  std::function<void(std::byte*, int64_t)> on_release_;
  std::vector<Entry> entries_;       // live, in order
  std::vector<Entry> peak_entries_;  // the copy made at the high-water mark, measuring only
};

}  // namespace nereus
