// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <expected>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <span>

// What a mapped_resource is: a mapping as the space of an allocator. Implementation units only.
module fmmap.pmr:state;

import fmmap.core;
import fmmap.alloc;
import :flushable_resource;
import :mapped_resource;

namespace fmmap {

// Tells the address sanitizer which bytes a program may touch, where it has one.
[[nodiscard]] auto watches_addresses() noexcept -> bool;

// Whether a sanitizer has taken most of the address space for itself.
[[nodiscard]] auto has_shadow_memory() noexcept -> bool;
void poison(std::span<std::byte const> bytes) noexcept;
void unpoison(std::span<std::byte const> bytes) noexcept;

class resource_state final : public alloc::space {
public:
  // Over `memory`, which grows within `limit` bytes: with `backing`, when that is its file; else when it is anonymous. A call
  // that fails leaves the file to the caller.
  [[nodiscard]] static auto make(file& backing, mapping memory, std::size_t limit, resource_options const& options)
      -> result<std::unique_ptr<mapped_resource>>;

  explicit resource_state(mapping memory);
  ~resource_state() override;

  // Throws allocation_error.
  [[nodiscard, gnu::always_inline]] inline auto allocate(std::size_t size, std::size_t alignment) -> void* {
    auto const offset = allocator_->allocate(size, alignment);
    if (!offset || is_watched_) [[unlikely]] {
      return finish_allocation(offset, size, alignment);
    }
    return origin_ + *offset;
  }

  [[gnu::always_inline]] inline void deallocate(void* pointer, std::size_t size, std::size_t alignment) noexcept {
    // Of a foreign pointer the offset may be any number; the allocator refuses those past its end.
    auto const offset = reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(origin_);
    if (is_watched_) [[unlikely]] {
      watch_deallocation(offset, size, alignment);
    }
    allocator_->deallocate(offset, size, alignment);
  }

  // A flush of `range` of the mapping, to run without the lock.
  [[nodiscard]] auto stage_flush(byte_range range, durability level) -> result<flush_job>;
  // The bytes as a range of the mapping. Errors: `errc::out_of_range`.
  [[nodiscard]] auto range_of(void const* pointer, std::size_t size) const -> result<byte_range>;
  [[nodiscard]] auto rewrite() -> result<durability>;
  [[nodiscard]] auto close() -> result<void>;
  void release() noexcept;

  [[nodiscard]] inline auto storage() const noexcept -> std::span<std::byte const> {
    return {origin_, size_.load(std::memory_order_acquire)};
  }
  [[nodiscard]] inline auto allocator() const noexcept -> alloc::allocator& { return *allocator_; }
  [[nodiscard]] inline auto limit() const noexcept -> std::size_t { return limit_; }
  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }

private:
  [[nodiscard]] auto grow_to(std::size_t size) -> result<void> override;
  [[nodiscard]] auto provide(std::size_t offset, std::size_t length) -> result<void> override;
  [[nodiscard]] auto withdraw(std::size_t offset, std::size_t length) -> result<void> override;

  [[nodiscard]] auto finish_allocation(result<std::size_t> const& offset, std::size_t size, std::size_t alignment)
      -> void*;
  void watch_deallocation(std::size_t offset, std::size_t size, std::size_t alignment) noexcept;

  file file_;
  std::mutex mutex_; // of what changes the mapping, or asks it
  mapping memory_;
  std::byte* origin_ = nullptr; // the first whole page of it
  std::size_t skipped_ = 0;     // bytes before that
  std::size_t limit_ = 0;       // bytes from the origin on
  std::atomic<std::size_t> size_{0};
  bool is_watched_ = false; // deallocations are checked, or addresses watched
  std::unique_ptr<alloc::allocator> allocator_;
};

} // namespace fmmap
