// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.os;
import :address_map;

namespace fmmap {

namespace {

constexpr char const* source = "/proc/self/maps";

auto fail(int code) -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, "read", source));
}

auto read_all() -> result<std::string> {
  auto const from = os::retry([] { return os::open(os::working_directory, source, {}, 0); });
  if (!from) {
    return fail(from.error());
  }
  std::string text;
  std::array<char, 16384> block;
  int code = 0;
  while (true) {
    auto const got = os::retry([&] { return os::read(*from, std::as_writable_bytes(std::span{block})); });
    if (!got || *got == 0) {
      code = got ? 0 : got.error();
      break;
    }
    text.append(block.data(), *got);
  }
  if (auto const closed = os::close(*from); !closed) {
    report_dropped_error(error::make({closed.error(), std::system_category()}, "close", source));
  }
  return code == 0 ? result<std::string>{std::move(text)} : fail(code);
}

auto take_field(std::string_view& rest) -> std::string_view {
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  auto const field = rest.substr(0, rest.find(' '));
  rest.remove_prefix(field.size());
  return field;
}

auto parse_address(std::string_view digits) noexcept -> std::uint64_t {
  std::uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

// begin-end rwxp offset device inode name
auto parse(std::string_view line) -> address_range {
  auto const addresses = take_field(line);
  auto const permissions = take_field(line);
  for (int ignored = 0; ignored < 3; ++ignored) {
    (void)take_field(line);
  }
  auto const dash = std::min(addresses.find('-'), addresses.size() - 1);
  return {.begin = parse_address(addresses.substr(0, dash)),
          .end = parse_address(addresses.substr(dash + 1)),
          .accessible = !permissions.starts_with("---"),
          .name = std::string{line.substr(std::min(line.find_first_not_of(' '), line.size()))}};
}

} // namespace

auto address_map::read() -> result<address_map> {
  auto const text = read_all();
  if (!text) {
    return std::unexpected(text.error());
  }
  address_map made;
  for (std::string_view rest = *text; !rest.empty();) {
    auto const line = rest.substr(0, rest.find('\n'));
    made.ranges_.push_back(parse(line));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  }
  std::ranges::sort(made.ranges_, {}, &address_range::begin);
  return made;
}

auto address_map::find(std::uintptr_t begin, std::uintptr_t end) const noexcept -> address_range const* {
  auto const first = std::ranges::upper_bound(ranges_, begin, {}, &address_range::end);
  auto const last = std::ranges::find_if(first, ranges_.end(), [&](auto const& one) { return one.begin >= end; });
  auto const named = std::ranges::find_if_not(first, last, [](auto const& one) { return one.name.empty(); });
  auto const found = named == last ? first : named;
  return found == last ? nullptr : &*found;
}

auto hexadecimal(std::uintptr_t value) -> std::string {
  std::array<char, 16> digits;
  auto const done = std::to_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return "0x" + std::string{digits.data(), done.ptr};
}

auto describe(address_range const& range) -> std::string {
  return hexadecimal(range.begin) + "-" + hexadecimal(range.end) + " (" +
         (range.name.empty() ? std::string{"without a name"} : range.name) + ")";
}

} // namespace fmmap
