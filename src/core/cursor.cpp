// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

module fmmap.core;

import :state;

namespace fmmap {

auto outside(std::string_view operation, std::string_view path, byte_range range, std::uint64_t size,
             std::uint64_t base) -> std::unexpected<error> {
  range.offset = range.offset > UINT64_MAX - base ? UINT64_MAX : range.offset + base;
  return failure(errc::out_of_range, operation, path, range,
                 base == 0 ? "there are " + std::to_string(size) + " bytes"
                           : "they end at " + std::to_string(base + size));
}

auto misaligned(std::string_view path, byte_range range, std::size_t alignment) -> std::unexpected<error> {
  return failure(errc::misaligned, "view", path, range,
                 "it needs addresses that are multiples of " + std::to_string(alignment) + "; read() does not");
}

} // namespace fmmap
