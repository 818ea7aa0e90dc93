// A text data set from its files to packed rows: decompressing, parsing, tokenising, packing.
#include "cli/bench_data.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <limits>
#include <vector>

#include "base/assets.h"
#include "base/check.h"
#include "base/log.h"
#include "cli/command.h"
#include "data/document_encoder.h"

namespace nereus {
namespace {

struct Rate {
  data::SourceStatus status;
  double tokens = 0, seconds = 0;
};

Rate measure(const data::TextOptions& options, int64_t seq_len, int64_t rows, double at_least) {
  using Clock = std::chrono::steady_clock;
  const log::Capture quiet;  // a small set begins again all the time
  const auto tokens = static_cast<size_t>(rows * seq_len);
  std::vector<int32_t> inputs(tokens), labels(tokens);
  const auto begin = Clock::now();
  const auto source = data::text_rows(options, {.seq_len = seq_len, .global_batch = rows});
  Rate out;
  do {
    source->next(rows, inputs, labels);
    out.tokens += static_cast<double>(rows * (seq_len + 1));
    out.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  } while (out.seconds < at_least);
  out.status = source->status();
  return out;
}

}  // namespace

int run_bench_data(int argc, char** argv) {
  CLI::App app("Times a text data set from files to packed rows, on one worker thread and on more",
               "nereus bench data");
  data::TextOptions options;
  options.dataset = "c4";
  options.path = "assets/sample";
  options.vocab_size = std::numeric_limits<int32_t>::max();
  std::string tokenizer = "assets/tokenizer", order = "global";
  int64_t seq_len = 4096, rows = 8;
  int threads = 2, repeats = 3;
  double seconds = 3;
  app.add_option("--dataset_path", options.path, "folder with *.json.gz shards, or one shard")
      ->capture_default_str();
  app.add_option("--tokenizer", tokenizer, "folder with tokenizer.json")->capture_default_str();
  app.add_option("--order", order, "global or torchtitan")
      ->check(CLI::IsMember({"global", "torchtitan"}))
      ->capture_default_str();
  app.add_option("--threads", threads, "worker threads, compared with one")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seq_len", seq_len, "tokens a row")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seconds", seconds, "of each measurement, at least")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--repeats", repeats, "measurements of each, in turn; the best counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;

  options.order = value_of<DataOrder>(order).value();
  options.path = resolve_asset(options.path);
  options.make_encoder = data::document_encoder(data::Tokenizer::load(resolve_asset(tokenizer)));
  const std::vector<int> counts = threads > 1 ? std::vector<int>{1, threads} : std::vector<int>{1};
  std::vector<double> best(counts.size());
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (size_t i = 0; i < counts.size(); ++i) {
      options.workers = counts[i];
      const Rate r = measure(options, seq_len, rows, seconds);
      const double rate = r.tokens / r.seconds;
      best[i] = std::max(best[i], rate);
      fmt::print(
          "{:2} threads  {:7.3f} M tokens/s  {:7.2f} MB/s of text  {} documents, {} passes\n",
          counts[i], 1e-6 * rate, 1e-6 * static_cast<double>(r.status.text_bytes) / r.seconds,
          r.status.documents, r.status.epochs);
    }
  }
  if (counts.size() > 1)
    fmt::print("{} threads: {:.2f} times one thread (stated for 2: at least 1.7)\n", threads,
               best[1] / best[0]);
  return 0;
}

}  // namespace nereus
