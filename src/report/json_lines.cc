#include "report/json_lines.h"

#include <simdjson.h>

namespace nereus::report {

namespace dom = simdjson::dom;

static_assert(FileLines::kPadding >= simdjson::SIMDJSON_PADDING);

// The document parser, whose code for this processor is chosen when it runs.
struct JsonLines::Parser {
  dom::parser parser;
};

namespace {

JsonField field_of(const dom::key_value_pair& field) {
  JsonField out;
  out.key = field.key;
  const dom::element& value = field.value;
  switch (value.type()) {
    case dom::element_type::INT64:
    case dom::element_type::UINT64:
    case dom::element_type::DOUBLE:
      out.kind = JsonField::Kind::number;
      out.number = value.get_double().value_unsafe();
      break;
    case dom::element_type::STRING:
      out.kind = JsonField::Kind::text;
      out.text = value.get_string().value_unsafe();
      break;
    case dom::element_type::BOOL:
      out.kind = JsonField::Kind::boolean;
      out.number = value.get_bool().value_unsafe() ? 1 : 0;
      break;
    case dom::element_type::ARRAY:
    case dom::element_type::OBJECT:
      out.kind = JsonField::Kind::nested;
      break;
    case dom::element_type::NULL_VALUE:
      break;
  }
  return out;
}

}  // namespace

JsonLines::JsonLines(const std::string& path, int64_t offset)
    : lines_(path, offset), parser_(std::make_unique<Parser>()), whole_offset_(offset) {}

JsonLines::~JsonLines() = default;

bool JsonLines::next(std::vector<JsonField>& fields) {
  for (std::string_view line; lines_.next(line);) {
    if (lines_.whole()) whole_offset_ = lines_.offset();
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    half_written_ = false;
    dom::object object;
    if (!parser_->parser.parse(line.data(), line.size(), false).get(object)) {
      fields.clear();
      for (const dom::key_value_pair field : object) fields.push_back(field_of(field));
      line_ = line;
      return true;
    }
    ++unreadable_;
    half_written_ = !lines_.whole();
  }
  return false;
}

}  // namespace nereus::report
