#include "cli/tokenize.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "base/assets.h"
#include "base/atomic_file.h"
#include "base/check.h"
#include "base/log.h"
#include "cli/command.h"
#include "data/tokenizer/tokenizer.h"
#include "data/utf8.h"

namespace nereus {
namespace {

using data::Tokenizer;
using nlohmann::json;

std::ifstream open_input(const std::string& path) {
  std::error_code error;
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(kConfig, in.good() && !std::filesystem::is_directory(path, error),
               "--input {}: cannot be read: there is no such file, or it is not readable", path);
  return in;
}

std::string read_input(const std::string& path) {
  std::ifstream in = open_input(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The output is complete or absent. What is no regular file (a pipe, /dev/stdout) is written to
// directly.
void write_output(const std::string& path, const std::function<void(std::ostream&)>& body) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::optional<PartialPath> partial;
  if (!fs::exists(path, error) || fs::is_regular_file(path, error)) partial.emplace(path);
  std::ofstream out(partial ? partial->path() : path, std::ios::binary);
  NEREUS_CHECK(kConfig, out.good(), "--output {}: cannot be written: {}", path,
               std::generic_category().message(errno));
  body(out);
  out.close();
  NEREUS_CHECK(kIo, out.good(), "--output {}: writing failed; is the disk full?", path);
  if (!partial) return;
  error = partial->commit();
  NEREUS_CHECK(kIo, !error, "--output {}: {} cannot take this name: {}", path, partial->path(),
               error.message());
}

// on_object(object, line number) for each line of a JSON-lines file; empty lines are passed over.
void each_line(const std::string& path, const std::function<void(const json&, size_t)>& on_object) {
  std::ifstream in = open_input(path);
  size_t number = 0;
  int64_t replaced = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (!data::is_valid_utf8(line)) {
      if (replaced == 0) log::warning("{}:{}: invalid UTF-8 is read as U+FFFD", path, number);
      line = data::replace_invalid_utf8(line, &replaced);
    }
    json object;
    try {
      object = json::parse(line);
    } catch (const json::exception& e) {
      NEREUS_FAIL(kConfig, "{}:{}: is not a JSON object: {}", path, number, e.what());
    }
    NEREUS_CHECK(kConfig, object.is_object(), "{}:{}: is not a JSON object", path, number);
    on_object(object, number);
  }
}

struct Options {
  std::string tokenizer, input, output;
};

void encode(const Options& o) {
  const auto tokenizer = Tokenizer::load(o.tokenizer);
  Tokenizer::Encoder encoder(*tokenizer);
  write_output(o.output, [&](std::ostream& out) {
    each_line(o.input, [&](const json& object, size_t line) {
      NEREUS_CHECK(kConfig, object.contains("text") && object["text"].is_string(),
                   "{}:{}: has no string \"text\"", o.input, line);
      std::vector<int32_t> ids;
      encoder.encode(object["text"].get<std::string>(), ids);
      out << fmt::format("{{\"ids\": [{}]}}\n", fmt::join(ids, ", "));
    });
  });
}

void decode(const Options& o) {
  const auto tokenizer = Tokenizer::load(o.tokenizer);
  write_output(o.output, [&](std::ostream& out) {
    each_line(o.input, [&](const json& object, size_t line) {
      NEREUS_CHECK(kConfig, object.contains("ids") && object["ids"].is_array(),
                   "{}:{}: has no list \"ids\"", o.input, line);
      std::vector<int32_t> ids;
      for (const json& id : object["ids"]) {
        NEREUS_CHECK(kConfig, id.is_number_integer() && tokenizer->has(id.get<int64_t>()),
                     "{}:{}: token id {} is not in the vocabulary, which has ids from 0 to {}",
                     o.input, line, id.dump(), tokenizer->vocab_size() - 1);
        ids.push_back(id.get<int32_t>());
      }
      nlohmann::ordered_json result;
      result["decoded"] = tokenizer->decode(ids, false);
      result["decoded_skip_special"] = tokenizer->decode(ids, true);
      out << result.dump(-1, ' ', /*ensure_ascii=*/true) << '\n';
    });
  });
}

void stream(const Options& o) {
  const auto tokenizer = Tokenizer::load(o.tokenizer);
  std::vector<int32_t> ids;
  Tokenizer::Encoder(*tokenizer).encode(read_input(o.input), ids);
  write_output(o.output, [&](std::ostream& out) {
    for (const int32_t id : ids) {
      const auto u = static_cast<uint32_t>(id);
      const char bytes[] = {static_cast<char>(u), static_cast<char>(u >> 8),
                            static_cast<char>(u >> 16), static_cast<char>(u >> 24)};
      out.write(bytes, 4);
    }
  });
}

// About 4 KB documents, cut at code points.
std::vector<std::string_view> documents_of(std::string_view text) {
  constexpr size_t kBytes = 4096;
  std::vector<std::string_view> out;
  while (!text.empty()) {
    size_t n = std::min(kBytes, text.size());
    while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0u) == 0x80u) ++n;
    out.push_back(text.substr(0, n));
    text.remove_prefix(n);
  }
  return out;
}

void bench(const Options& o) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  auto begin = Clock::now();
  const auto tokenizer = Tokenizer::load(o.tokenizer);
  fmt::print("load         {:8.3f} s\n", seconds(begin));
  const std::string text = read_input(o.input);
  const std::vector<std::string_view> documents = documents_of(text);
  Tokenizer::Encoder encoder(*tokenizer);
  std::vector<int32_t> ids;
  for (const char* name : {"first pass", "later passes"}) {
    const int passes = name[0] == 'f' ? 1 : 5;
    begin = Clock::now();
    for (int pass = 0; pass < passes; ++pass) {
      ids.clear();
      for (const std::string_view document : documents) encoder.encode(document, ids);
    }
    const double s = seconds(begin);
    fmt::print("{:12} {:8.3f} s   {:7.2f} MB/s   {:.2f} M ids/s\n", name, s,
               1e-6 * static_cast<double>(text.size()) * passes / s,
               1e-6 * static_cast<double>(ids.size()) * passes / s);
  }
  fmt::print("{} documents, {} bytes, {} ids, one thread\n", documents.size(), text.size(),
             ids.size());
}

}  // namespace

int run_tokenize(int argc, char** argv) {
  CLI::App app("Encode and decode text with a Hugging Face tokenizer.json", "nereus tokenize");
  app.require_subcommand(1);
  Options o;
  o.tokenizer = resolve_asset("assets/tokenizer");
  std::function<void(const Options&)> chosen;
  const auto add = [&](const char* name, const char* help, bool output,
                       void (*body)(const Options&)) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("--tokenizer", o.tokenizer, "folder with tokenizer.json")
        ->capture_default_str();
    command->add_option("--input", o.input, "file to read")->required();
    if (output) command->add_option("--output", o.output, "file to write")->required();
    command->callback([&chosen, body] { chosen = body; });
  };
  add("encode", "JSON lines with \"text\" to JSON lines with \"ids\" (no BOS, no EOS)", true,
      encode);
  add("decode", "JSON lines with \"ids\" to \"decoded\" and \"decoded_skip_special\"", true,
      decode);
  add("stream", "a whole text file to ids, little-endian u32", true, stream);
  add("bench", "encoding speed on one thread, in documents of about 4 KB", false, bench);
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  chosen(o);
  return 0;
}

}  // namespace nereus
