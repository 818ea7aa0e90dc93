#include "engine/step_status.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "ops/elementwise.h"
#include "ops/optimizer.h"
#include "ops/step.h"

namespace nereus {
namespace {

constexpr int64_t kSlot = Arena::kAlignment;  // bytes: no slot shares a line with another
constexpr int64_t kRecordsSlot = 6;           // the last

// What the host reads, as it lies on the device.
struct Decision {
  double total[ops::kStepRecord];
  float norm;
  int32_t ok;
};
static_assert(sizeof(Decision) <= kSlot);

}  // namespace

TensorView StepStatus::place(int64_t slot, DType dtype, const Shape& shape, int64_t offset) const {
  std::byte* data = buffer_.data() == nullptr ? nullptr : buffer_.data() + slot * kSlot + offset;
  return TensorView(data, dtype, shape);
}

StepStatus::StepStatus(Stream& stream, const RankWorld& world)
    : stream_(stream),
      world_(world),
      buffer_(stream.device(),
              kRecordsSlot * kSlot + world.ranks() * ops::kStepRecord * size_of(DType::f64),
              "step results"),
      host_(stream.on_gpu() ? stream.device() : Device::cpu(), kAhead * kSlot,
            "step results on their way to the host",
            stream.on_gpu() ? Buffer::Kind::pinned : Buffer::Kind::device),
      decision_(place(0, DType::u8, {int64_t{sizeof(Decision)}})),
      total_(place(0, DType::f64, {ops::kStepRecord})),
      norm_(place(0, DType::f32, {1}, offsetof(Decision, norm))),
      ok_(place(0, DType::i32, {1}, offsetof(Decision, ok))),
      loss_(place(1, DType::f32, {1})),
      sum_squares_(place(2, DType::f64, {1})),
      overflow_(place(3, DType::i64, {1})),
      max_over_mean_(place(4, DType::f64, {1})),
      coefficient_(place(5, DType::f32, {1})),
      records_(place(kRecordsSlot, DType::f64, {world.ranks(), ops::kStepRecord})),
      read_by_host_{Event(stream.device()), Event(stream.device())} {
  ops::fill(stream_, {.out = place(4, DType::i64, {1}), .value = 0});  // bits of 0.0
  reset();
}

void StepStatus::finish(float max_norm) {
  NEREUS_CHECK(kContract, unread() < kAhead, "{} steps are finished and not read", unread());
  const TensorView mine = records_.rows(world_.rank(), world_.rank() + 1);
  ops::step_record(
      stream_, {.record = mine.reshape({ops::kStepRecord}),
                .overflow = overflow_,
                .sum_squares = sum_squares_,
                .loss = loss_,
                .max_over_mean = max_over_mean_,
                .counts_squares = world_.position(MeshGroup::dp_replicate) == 0,
                .counts_loss = world_.first_of_tp(),
                .pairs = attention_pairs_,
                .signal = signal_,
                .figures = {figures_.data_seconds, figures_.memory_gib, figures_.memory_percent}});
  world_.world().all_gather(stream_, records_, mine);
  ops::step_outcome(stream_, {.total = total_, .step_ok = ok_, .records = records_});
  ops::clip_coefficient(stream_, {.norm = norm_,
                                  .coefficient = coefficient_,
                                  .step_ok = ok_,
                                  .sum_squares = total_.rows(0, 1),
                                  .max_norm = max_norm});
  const int64_t slot = finished_ % kAhead;
  copy_to_host(stream_, host_.data() + slot * kSlot, decision_);
  read_by_host_[slot].record(stream_);
  ++finished_;
}

StepStatus::Outcome StepStatus::read() {
  NEREUS_CHECK(kContract, unread() > 0, "all steps that were finished have been read");
  const int64_t slot = read_ % kAhead;
  read_by_host_[slot].synchronize();
  Decision d;
  std::memcpy(&d, host_.data() + slot * kSlot, sizeof d);
  ++read_;
  return {.loss = static_cast<float>(d.total[1]),
          .grad_norm = d.norm,
          .max_loss_part = d.total[6],
          .required_capacity = static_cast<int64_t>(d.total[3]),
          .max_over_mean = d.total[4],
          .attention_pairs = d.total[2] / static_cast<double>(world_.ranks()),
          .signal = static_cast<int>(d.total[5]),
          .highest = {.data_seconds = d.total[7],
                      .memory_gib = d.total[8],
                      .memory_percent = d.total[9]},
          .ok = d.ok != 0};
}

void StepStatus::reset() { ops::fill(stream_, {.out = ok_, .value = 1}); }

}  // namespace nereus
