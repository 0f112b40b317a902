// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <ios>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

module fmmap.tool;

import :text;

namespace fmmap::tool {

namespace {

auto with_one_digit(double number) -> std::string {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << number;
  return text.str();
}

auto byte_of(char c) -> std::uint8_t { return static_cast<std::uint8_t>(c); }

// How many bytes of `text` are its first character; nothing where they are none that can be shown.
auto shown_length(std::string_view text) -> std::optional<std::size_t> {
  auto const first = byte_of(text.front());
  if (first < 0x80) {
    return first >= 0x20 && first != 0x7f ? std::optional<std::size_t>{1} : std::nullopt;
  }
  std::size_t const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) {
    return {};
  }
  std::uint32_t code = first & (0x7fU >> length);
  for (auto const c : text.substr(1, length - 1)) {
    if ((byte_of(c) & 0xc0U) != 0x80) {
      return {};
    }
    code = (code << 6U) | (byte_of(c) & 0x3fU);
  }
  constexpr std::array<std::uint32_t, 5> least{0, 0, 0xa0, 0x800, 0x10000}; // the first of two bytes are for terminals
  auto const is_character =
      code >= least[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) && (code & 0xfffeU) != 0xfffe;
  return is_character ? std::optional{length} : std::nullopt;
}

// Columns that it takes, each character for one.
auto width_of(std::string_view text) -> std::size_t {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (byte_of(c) & 0xc0U) != 0x80; }));
}

} // namespace

auto bytes_text(std::uint64_t bytes) -> std::string {
  constexpr std::array<std::string_view, 6> units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  constexpr double step = 1024;
  if (bytes < 1024) {
    return count_text(bytes, "byte");
  }
  auto number = static_cast<double>(bytes) / step;
  std::size_t unit = 0;
  for (; number >= step - 0.05 && unit + 1 < units.size(); ++unit) { // which would be written as 1024.0
    number /= step;
  }
  return with_one_digit(number) + ' ' + std::string{units[unit]};
}

auto exact_bytes_text(std::uint64_t bytes) -> std::string {
  return bytes < 1024 ? bytes_text(bytes) : bytes_text(bytes) + " (" + std::to_string(bytes) + " bytes)";
}

auto share_text(std::uint64_t part, std::uint64_t whole) -> std::string {
  return with_one_digit(whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole)) + " %";
}

auto count_text(std::uint64_t count, std::string_view noun) -> std::string {
  return std::to_string(count) + ' ' + std::string{noun} + (count == 1 ? "" : "s");
}

auto hex_text(std::uint64_t number) -> std::string {
  std::ostringstream text;
  text << "0x" << std::hex << number;
  return text.str();
}

auto printable(std::string_view text) -> std::string {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    auto const length = shown_length(text);
    if (length) {
      shown += text.substr(0, *length);
    } else {
      shown += {'\\', 'x', digits[byte_of(text.front()) >> 4U], digits[byte_of(text.front()) & 0xfU]};
    }
    text.remove_prefix(length.value_or(1));
  }
  return shown;
}

void text_table::print(std::ostream& to, std::string_view indent) const {
  std::vector<std::size_t> widths(columns_.size());
  for (auto const& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], width_of(row[i]));
    }
  }
  for (auto const& row : rows_) {
    std::string line{indent};
    for (std::size_t i = 0; i < row.size(); ++i) {
      std::string const gap(widths[i] - width_of(row[i]), ' ');
      line += i == 0 ? "" : "  ";
      line += columns_[i] == column::right ? gap + row[i] : row[i] + gap;
    }
    to << line.substr(0, line.find_last_not_of(' ') + 1) << '\n';
  }
}

} // namespace fmmap::tool
