// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <memory>
#include <span>
#include <type_traits>

export module fmmap.exec:code_buffer;

import fmmap.core;
import :code_arena;

namespace fmmap {
class code_memory; // defined in src/exec/code_memory.cppm
} // namespace fmmap

export namespace fmmap {

/// Some code in pages of its own, sealed from the beginning.
///
/// Thread safety: code may run on any thread; destruction needs that none does. Fork: a child may run it. Exec: gone.
class code_buffer {
public:
  /// Copies `code` into new memory near the program's own, and makes it executable.
  ///
  /// Errors: as `code_arena::create`; `errc::invalid_options` for no bytes.
  [[nodiscard]] static auto make(std::span<std::byte const> code, code_strategy strategy = code_strategy::automatic)
      -> result<code_buffer>;

  code_buffer(code_buffer&& other) noexcept;
  auto operator=(code_buffer&& other) noexcept -> code_buffer&;
  ~code_buffer();

  /// Empty when moved from.
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return code_; }

  template <class Function>
    requires std::is_function_v<Function>
  [[nodiscard]] inline auto entry() const noexcept -> Function* {
    return reinterpret_cast<Function*>(const_cast<std::byte*>(code_.data()));
  }

private:
  code_buffer(std::unique_ptr<code_memory> memory, std::span<std::byte const> code) noexcept;

  std::unique_ptr<code_memory> memory_;
  std::span<std::byte const> code_;
};

} // namespace fmmap
