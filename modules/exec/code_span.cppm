// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <span>
#include <type_traits>

export module fmmap.exec:code_span;

namespace fmmap {
class arena_state; // defined in src/exec/arena_state.cppm
} // namespace fmmap

export namespace fmmap {

/// Where a piece of code lies: an address and a length, which own nothing.
///
/// Valid from `code_arena::allocate` until it is retired, to be called from `publish` on.
class code_span {
public:
  /// No code.
  code_span() noexcept = default;

  [[nodiscard]] inline auto address() const noexcept -> std::byte const* { return address_; }
  /// In bytes, as asked for.
  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return size_; }
  [[nodiscard]] inline auto empty() const noexcept -> bool { return size_ == 0; }
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return {address_, size_}; }

  /// The code as a function, to be called once it is published.
  template <class Function>
    requires std::is_function_v<Function>
  [[nodiscard]] inline auto entry() const noexcept -> Function* {
    return reinterpret_cast<Function*>(const_cast<std::byte*>(address_));
  }

  [[nodiscard]] auto operator==(code_span const& other) const noexcept -> bool = default;

private:
  friend arena_state;
  inline code_span(std::byte const* address, std::size_t size) noexcept : address_{address}, size_{size} {}

  std::byte const* address_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace fmmap
