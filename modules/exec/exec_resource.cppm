// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <memory>
#include <memory_resource>
#include <string_view>
#include <type_traits>

export module fmmap.exec:exec_resource;

import fmmap.core;
import :code_arena;

namespace fmmap {
class staged_code; // defined in src/exec/exec_resource.cpp
} // namespace fmmap

export namespace fmmap {

/// A memory resource whose containers hold code: they build it in ordinary memory, and `flush` publishes it.
///
/// What is allocated is full of traps. Each object has a place of its own in the arena from its first flush on, which is retired
/// when the object is deallocated.
///
/// Thread safety: all members may be called from any thread, but nobody may change objects during a `flush`.
/// Fork: as of the arena. Exec: gone.
class exec_resource final : public std::pmr::memory_resource {
public:
  /// Containers allocate from `staging`, code lies in `arena`, which lives on as long as one of the two does, unless it is closed.
  ///
  /// Errors: `errc::closed`; `errc::invalid_options` for no `staging`.
  [[nodiscard]] static auto create(code_arena& arena,
                                   std::pmr::memory_resource* staging = std::pmr::new_delete_resource())
      -> result<std::unique_ptr<exec_resource>>;

  ~exec_resource() override;

  /// Makes the bytes of all objects the code at their entries. Where an object has changed since its last flush, its code is
  /// changed in place: nobody may be executing those bytes. Appending to a vector within its capacity changes no byte that was
  /// there. `name` is that of all that are published for the first time, as in `code_arena::write`.
  ///
  /// Takes as long as all objects are long, which it compares with their code.
  ///
  /// Errors: as `code_arena::allocate` and `publish`, for the first object of which something fails: the others are published all
  /// the same, and the next call goes on.
  [[nodiscard]] auto flush(std::string_view name = {}) -> result<void>;

  /// The code of the byte at `pointer`, of any object; null before the first flush of that, and for what is of none. It stays
  /// the same until the object is deallocated, as a vector does when it grows past its capacity.
  template <class Function>
    requires std::is_function_v<Function>
  [[nodiscard]] inline auto entry(void const* pointer) const noexcept -> Function* {
    return reinterpret_cast<Function*>(const_cast<std::byte*>(address_of(pointer)));
  }

private:
  explicit exec_resource(std::unique_ptr<staged_code> code) noexcept;

  [[nodiscard]] auto address_of(void const* pointer) const noexcept -> std::byte const*;
  [[nodiscard]] auto do_allocate(std::size_t size, std::size_t alignment) -> void* override;
  void do_deallocate(void* pointer, std::size_t size, std::size_t alignment) override;
  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override;

  std::unique_ptr<staged_code> code_;
};

} // namespace fmmap
