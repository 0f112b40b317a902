// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <system_error>
#include <utility>

// What an allocator hands out ranges of.
export module fmmap.alloc:space;

import fmmap.core;

export namespace fmmap::alloc {

class space {
public:
  space() = default;
  space(space const&) = delete;
  auto operator=(space const&) -> space& = delete;
  virtual ~space() = default;

  // Makes the space `wanted` bytes long, or `least` where there is not as much, and returns which.
  [[nodiscard]] inline auto grow(std::size_t least, std::size_t wanted) -> result<std::size_t>;

  // Makes the space `size` bytes long. What is new has memory behind it. One thread at a time.
  [[nodiscard]] virtual auto grow_to(std::size_t size) -> result<void> = 0;

  // Puts memory behind what `withdraw` has taken it from.
  [[nodiscard]] virtual auto provide(std::size_t offset, std::size_t length) -> result<void> = 0;

  // Takes the memory behind whole pages away, whose content nobody needs.
  [[nodiscard]] virtual auto withdraw(std::size_t offset, std::size_t length) -> result<void> = 0;
};

// Whether an error says that there is not as much as was asked for, so that less may be had.
[[nodiscard]] inline auto is_want_of_space(error const& why) noexcept -> bool {
  return why == errc::reservation_exceeded || why == std::errc::no_space_on_device ||
         why == std::errc::not_enough_memory || why == std::errc::file_too_large ||
         why.code() == std::error_code{EDQUOT, std::system_category()};
}

auto space::grow(std::size_t least, std::size_t wanted) -> result<std::size_t> {
  auto grown = grow_to(wanted);
  if (!grown && least < wanted && is_want_of_space(grown.error())) {
    grown = grow_to(wanted = least);
  }
  if (!grown) {
    return std::unexpected(std::move(grown).error());
  }
  return wanted;
}

} // namespace fmmap::alloc
