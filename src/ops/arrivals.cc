#include "ops/arrivals.h"

#include "ops/contract.h"

namespace nereus::ops {

void check(const Arrivals& a) {
  const char* op = "arrivals";
  expect_rank(op, "offsets", a.offsets, 2);
  expect(op, "offsets", a.offsets, DType::i32, a.offsets.shape);
  expect_contiguous(op, "offsets", a.offsets);
  expect_rank(op, "arrival_of_row", a.arrival_of_row, 1);
  const int64_t R = a.arrival_of_row.dim(0), E = a.local_offsets.dim(0) - 1;
  expect(op, "arrival_of_row", a.arrival_of_row, DType::i32, {R});
  expect(op, "row_of_arrival", a.row_of_arrival, DType::i32, {R, 1});
  expect(op, "local_offsets", a.local_offsets, DType::i32, {E + 1});
  NEREUS_CHECK(kContract, a.first >= 0 && a.first + E < a.offsets.dim(1),
               "{}: experts {} to {} of {}", op, a.first, a.first + E, a.offsets.dim(1) - 1);
}

namespace cpu {

void arrivals(Stream&, const Arrivals& a) {
  const int64_t P = a.offsets.dim(0), stride = a.offsets.dim(1), E = a.local_offsets.dim(0) - 1;
  const int32_t* offsets = a.offsets.as<int32_t>();
  const auto count = [&](int64_t r, int64_t e) {
    const int32_t* at = offsets + r * stride + a.first + e;
    return at[1] - at[0];
  };
  int32_t* const local = a.local_offsets.as<int32_t>();
  local[0] = 0;
  for (int64_t e = 0; e < E; ++e) {
    local[e + 1] = local[e];
    for (int64_t r = 0; r < P; ++r) local[e + 1] += count(r, e);
  }
  int32_t arrival = 0;
  for (int64_t r = 0; r < P; ++r) {
    for (int64_t e = 0; e < E; ++e) {
      int32_t row = local[e];
      for (int64_t before = 0; before < r; ++before) row += count(before, e);
      for (int32_t i = 0; i < count(r, e); ++i, ++arrival, ++row) {
        a.row_of_arrival.as<int32_t>()[arrival] = row;
        a.arrival_of_row.as<int32_t>()[row] = arrival;
      }
    }
  }
}

}  // namespace cpu
}  // namespace nereus::ops
