// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <system_error>

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

  // Makes the space at least `least` bytes long, better `wanted`, and returns how long it is then. What is new has memory
  // behind it. One thread at a time.
  [[nodiscard]] virtual auto grow(std::size_t least, std::size_t wanted) -> result<std::size_t> = 0;

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

} // namespace fmmap::alloc
