#include "report/samples.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nereus::report {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

}  // namespace

void Samples::join(Bucket& into, const Bucket& later) {
  if (later.finite > 0 && (into.finite == 0 || later.low.y < into.low.y)) into.low = later.low;
  if (later.finite > 0 && (into.finite == 0 || later.high.y > into.high.y)) into.high = later.high;
  into.last = later.last;
  into.sum += later.sum;
  into.count += later.count;
  into.finite += later.finite;
}

void Samples::add(double x, double y) {
  const Point p{x, y};
  const bool finite = std::isfinite(y);
  const Bucket one{.first = p,
                   .last = p,
                   .low = finite ? p : Point{x, kNone},
                   .high = finite ? p : Point{x, kNone},
                   .sum = finite ? y : 0,
                   .count = 1,
                   .finite = finite ? 1 : 0};
  if (!buckets_.empty() && buckets_.back().count < width_) {
    join(buckets_.back(), one);
    return;
  }
  if (buckets_.size() == most_) {
    for (size_t i = 0; i < most_ / 2; ++i) {
      buckets_[i] = buckets_[2 * i];
      join(buckets_[i], buckets_[2 * i + 1]);
    }
    buckets_.resize(most_ / 2);
    width_ *= 2;
  }
  buckets_.push_back(one);
}

void Samples::rewind(double x) {
  while (!buckets_.empty() && buckets_.back().first.x >= x) buckets_.pop_back();
  if (buckets_.empty()) return;
  Bucket& b = buckets_.back();
  if (b.last.x < x) return;
  // What is left of a bucket is what it is known to have before x.
  std::vector<Point> left{b.first};
  for (const Point& p : {b.low, b.high})
    if (p.x < x && p.x > b.first.x && std::isfinite(p.y)) left.push_back(p);
  std::sort(left.begin(), left.end(), [](const Point& l, const Point& r) { return l.x < r.x; });
  buckets_.pop_back();
  const auto kept = static_cast<int64_t>(buckets_.size());
  for (const Point& p : left) {
    if (static_cast<int64_t>(buckets_.size()) == kept) {
      const bool finite = std::isfinite(p.y);
      buckets_.push_back({p, p, p, p, finite ? p.y : 0, 1, finite ? 1 : 0});
    } else {
      join(buckets_.back(), {p, p, p, p, p.y, 1, 1});
    }
  }
}

int64_t Samples::count() const {
  int64_t n = 0;
  for (const Bucket& b : buckets_) n += b.count;
  return n;
}

double Samples::low() const {
  double y = kNone;
  for (const Bucket& b : buckets_)
    if (b.finite > 0 && !(b.low.y >= y)) y = b.low.y;
  return y;
}

double Samples::high() const {
  double y = kNone;
  for (const Bucket& b : buckets_)
    if (b.finite > 0 && !(b.high.y <= y)) y = b.high.y;
  return y;
}

std::vector<Samples::Bucket> Samples::merged(size_t most) const {
  if (width_ == 1 && buckets_.size() <= most) return buckets_;
  const size_t wanted = std::max<size_t>(1, most / 2);  // two points a bucket
  const size_t group = (buckets_.size() + wanted - 1) / wanted;
  std::vector<Bucket> out;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    if (i % group == 0)
      out.push_back(buckets_[i]);
    else
      join(out.back(), buckets_[i]);
  }
  return out;
}

std::vector<Point> Samples::points(size_t most) const {
  std::vector<Point> out;
  if (buckets_.empty()) return out;
  const auto put = [&](const Point& p) {
    if (out.empty() || p.x > out.back().x) out.push_back(p);
  };
  put(first());
  for (const Bucket& b : merged(most)) {
    if (b.finite == 0) {
      put(b.first);
      continue;
    }
    put(b.low.x < b.high.x ? b.low : b.high);
    put(b.low.x < b.high.x ? b.high : b.low);
  }
  put(last());
  return out;
}

std::vector<Point> Samples::means(size_t most) const {
  std::vector<Point> out;
  if (width_ == 1 && buckets_.size() <= most) return out;
  for (const Bucket& b : merged(most))
    if (b.finite > 0)
      out.push_back(
          {std::round((b.first.x + b.last.x) / 2), b.sum / static_cast<double>(b.finite)});
  return out;
}

}  // namespace nereus::report
