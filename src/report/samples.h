// A series of a run in bounded memory, filled while a file is read: each bucket stands for equally
// many points and keeps its lowest and its highest, so that no extreme is lost however long the run
// is. When the buckets are full, neighbours are merged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nereus::report {

struct Point {
  double x = 0, y = 0;
};

class Samples {
 public:
  explicit Samples(size_t buckets = 2048) : most_(buckets) {}

  // x grows from call to call. A y that is not finite is counted, and kept as a point only where
  // its bucket has no other.
  void add(double x, double y);
  // Forgets what is at x or behind it, as far as buckets tell: the run goes on from there.
  void rewind(double x);

  bool empty() const { return buckets_.empty(); }
  int64_t count() const;
  Point first() const { return buckets_.front().first; }
  Point last() const { return buckets_.back().last; }
  double low() const;  // NaN when no point is finite
  double high() const;

  // At most about `most` points in the order of x, with the first, the last and each bucket's
  // extremes: all points when there are no more.
  std::vector<Point> points(size_t most) const;
  // Likewise a point a bucket with the mean of its finite y, in the middle of its x. Empty when
  // points(most) has every point.
  std::vector<Point> means(size_t most) const;

 private:
  struct Bucket {
    Point first, last, low, high;  // low and high: NaN without a finite point
    double sum = 0;                // of the finite ones
    int64_t count = 0, finite = 0;
  };
  static void join(Bucket& into, const Bucket& later);
  std::vector<Bucket> merged(size_t most) const;

  size_t most_;
  int64_t width_ = 1;  // points of a full bucket
  std::vector<Bucket> buckets_;
};

}  // namespace nereus::report
