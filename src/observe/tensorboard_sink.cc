#include "observe/tensorboard_sink.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <protozero/pbf_writer.hpp>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/little_endian.h"

namespace nereus {
namespace {

using protozero::pbf_writer;

constexpr int kBuckets = 30;

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

// "events.out.tfevents.SECONDS.HOST.PID.0"
std::string new_path(const std::string& folder, double now) {
  constexpr std::string_view kPrefix = "events.out.tfevents.";
  auto seconds = static_cast<int64_t>(now);
  std::error_code error;
  for (const auto& entry : entries_of(folder, error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    seconds =
        std::max(seconds, int64_t{std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10)} + 1);
  }
  return fmt::format("{}/{}{:010}.{}.{}.0", folder, kPrefix, seconds, host_name(), ::getpid());
}

// Of the loads of a layer's experts, n / mean, in buckets of equal width. A bucket's limit is its
// right end and does not belong to it, but for the last one's.
void add_histogram(pbf_writer& value, std::span<const int64_t> counts) {
  const std::vector<double> loads = relative_loads(counts);
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  const double width = *most > 0 ? *most / kBuckets : 1;
  std::array<double, kBuckets> limits{}, buckets{};
  for (size_t i = 0; i < kBuckets; ++i) limits[i] = width * static_cast<double>(i + 1);
  double sum = 0, squares = 0;
  for (const double load : loads) {
    sum += load;
    squares += load * load;
    buckets[std::min(static_cast<size_t>(load / width), limits.size() - 1)] += 1;
  }
  pbf_writer histogram(value, 5);
  histogram.add_double(1, *least);
  histogram.add_double(2, *most);
  histogram.add_double(3, static_cast<double>(loads.size()));
  histogram.add_double(4, sum);
  histogram.add_double(5, squares);
  histogram.add_packed_double(6, limits.begin(), limits.end());
  histogram.add_packed_double(7, buckets.begin(), buckets.end());
}

}  // namespace

TensorBoardSink::TensorBoardSink(const std::string& folder, double now, int64_t first_step)
    : file_(new_path(folder, now)) {
  const auto put = [&](auto fill) {
    event_.clear();
    pbf_writer event(event_);
    event.add_double(1, now);
    fill(event);
    append_record();
  };
  put([](pbf_writer& event) { event.add_string(3, "brain.Event:2"); });
  put([&](pbf_writer& event) {
    event.add_int64(2, first_step);
    pbf_writer session(event, 7);
    session.add_enum(1, 1);  // START
  });
  flush();
}

void TensorBoardSink::append_record() {
  const size_t length_at = records_.size();
  append_little_endian(records_, uint64_t{event_.size()});
  const uint32_t crc = masked_crc32c(std::string_view(records_).substr(length_at, 8));
  append_little_endian(records_, crc);
  records_ += event_;
  append_little_endian(records_, masked_crc32c(event_));
}

void TensorBoardSink::flush() {
  file_.write(records_);
  records_.clear();
}

void TensorBoardSink::write_summary(double time, int64_t step) {
  event_.clear();
  pbf_writer event(event_);
  event.add_double(1, time);
  event.add_int64(2, step);
  event.add_message(5, summary_);
  append_record();
  flush();
  summary_.clear();
}

void TensorBoardSink::add_scalar(std::string_view tag, double x) {
  pbf_writer summary(summary_);
  pbf_writer value(summary, 1);
  value.add_string(1, tag.data(), tag.size());
  value.add_float(2, static_cast<float>(x));
}

void TensorBoardSink::step(const StepMetrics& m) {
  for (const MetricField& f : step_fields()) {
    if (f.tag == nullptr) continue;
    const MetricField::Value value = f.value(m);
    if (const auto* n = std::get_if<int64_t>(&value)) add_scalar(f.tag, static_cast<double>(*n));
    if (const auto* x = std::get_if<double>(&value)) add_scalar(f.tag, *x);
  }
  for (const LayerNorm& n : m.layer_norms)
    add_scalar(fmt::format("grad_norm_by_layer/{}(norm)", n.name), n.norm);
  write_summary(m.time, m.step);
}

void TensorBoardSink::experts(int64_t step, double time, const ExpertTable& table) {
  for (size_t i = 0; i < table.layers.size(); ++i) {
    pbf_writer summary(summary_);
    pbf_writer value(summary, 1);
    value.add_string(1, fmt::format("expert_load/layer_{}(ratio)", table.layers[i]));
    add_histogram(value, table.counts_of(i));
  }
  for (const NamedFigure& f : layer_scalars(table)) add_scalar(f.name, f.value);
  write_summary(time, step);
}

void TensorBoardSink::validation(const ValidationMetrics& m) {
  for (const ValidationField& f : validation_fields()) add_scalar(f.tag, f.value(m));
  write_summary(m.time, m.step);
}

}  // namespace nereus
