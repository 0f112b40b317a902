// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>

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

} // namespace fmmap::alloc
