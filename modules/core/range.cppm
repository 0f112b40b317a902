// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <limits>

export module fmmap.core:range;

static_assert(sizeof(std::size_t) == 8, "fmmap is for systems with 64-bit addresses");

export namespace fmmap {

/// The length of a range that reaches to the end of whatever it is a range of.
inline constexpr std::size_t to_end = std::numeric_limits<std::size_t>::max();

/// The bytes [offset, offset + length) of a file or mapping. Neither number needs to be aligned, and an empty range is
/// valid wherever a range is.
struct byte_range {
  /// In bytes from the start of the file or mapping.
  std::uint64_t offset = 0;
  /// In bytes; `to_end` reaches to the end, wherever that is when the range is used.
  std::size_t length = to_end;

  auto operator==(byte_range const&) const -> bool = default;
};

/// All of it.
inline constexpr byte_range whole{};

/// The system's page size in bytes.
[[nodiscard]] auto system_page_size() noexcept -> std::size_t;

} // namespace fmmap

namespace fmmap {

// A range whose length is a length, however large, for the message of an error.
constexpr auto exactly(std::uint64_t offset, std::size_t length) noexcept -> byte_range {
  return {.offset = offset, .length = length == to_end ? to_end - 1 : length};
}

// How many of `wanted` bytes there are from `offset` on, in something `size` bytes long.
constexpr auto available(std::uint64_t offset, std::size_t wanted, std::size_t size) noexcept -> std::size_t {
  auto const left = offset < size ? size - static_cast<std::size_t>(offset) : 0;
  return wanted < left ? wanted : left;
}

} // namespace fmmap
