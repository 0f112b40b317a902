// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <expected>
#include <type_traits>

// The seam of the installed library: nothing between the caller and the system.
export module fmmap.os:invoke;

import :calls;

export namespace fmmap::os {

// Makes the system call `real`, which reports failure as -1 and errno. What it is about is for the table of the tests.
template <std::invocable Call>
[[gnu::always_inline]] inline auto invoke(call, Call real, subject = {}) noexcept
    -> outcome<std::invoke_result_t<Call&>> {
  auto const value = real();
  if (value == -1) [[unlikely]] {
    return std::unexpected(errno);
  }
  return value;
}

// The same for a call that transfers up to `length` bytes and may transfer fewer.
template <std::invocable<std::size_t> Call>
auto invoke_transfer(call which, std::size_t length, Call real, subject = {}) noexcept -> outcome<std::size_t> {
  return invoke(which, [&] { return real(length); });
}

} // namespace fmmap::os
