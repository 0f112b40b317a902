// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstdint>
#include <limits>
#include <optional>

// Page arithmetic: the only place where fmmap rounds. All of it is overflow-safe; `unit` is a power of two.
export module fmmap.os:pages;

export namespace fmmap::os {

// [begin, end), begin <= end.
struct interval {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] constexpr auto length() const noexcept -> std::uint64_t { return end - begin; }
  [[nodiscard]] constexpr auto empty() const noexcept -> bool { return begin == end; }
  auto operator==(interval const&) const -> bool = default;
};

constexpr auto round_down(std::uint64_t value, std::uint64_t unit) noexcept -> std::uint64_t {
  return value & ~(unit - 1);
}

// Empty when the result does not fit.
constexpr auto round_up(std::uint64_t value, std::uint64_t unit) noexcept -> std::optional<std::uint64_t> {
  if (value > std::numeric_limits<std::uint64_t>::max() - (unit - 1)) {
    return std::nullopt;
  }
  return round_down(value + (unit - 1), unit);
}

constexpr auto checked_add(std::uint64_t a, std::uint64_t b) noexcept -> std::optional<std::uint64_t> {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) {
    return std::nullopt;
  }
  return a + b;
}

// Whether [offset, offset + length) lies within [0, size).
constexpr auto fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) noexcept -> bool {
  return offset <= size && length <= size - offset;
}

// The smallest run of whole units that holds `bytes`, for calls that may touch more than asked. Of bytes that exist, so
// that their last unit does too.
constexpr auto outward(interval bytes, std::uint64_t unit) noexcept -> interval {
  if (bytes.empty()) {
    return bytes;
  }
  return {.begin = round_down(bytes.begin, unit), .end = round_down(bytes.end - 1, unit) + unit};
}

// The largest run of whole units inside `bytes`, possibly empty: for calls that destroy what they touch.
constexpr auto inward(interval bytes, std::uint64_t unit) noexcept -> interval {
  auto const begin = round_up(bytes.begin, unit);
  auto const end = round_down(bytes.end, unit);
  if (!begin || *begin >= end) {
    return {bytes.begin, bytes.begin};
  }
  return {*begin, end};
}

// How far above `address` the first address lies that equals `offset` modulo `unit`.
constexpr auto gap_to_congruent(std::uint64_t address, std::uint64_t offset, std::uint64_t unit) noexcept
    -> std::uint64_t {
  return (offset - address) & (unit - 1);
}

} // namespace fmmap::os
