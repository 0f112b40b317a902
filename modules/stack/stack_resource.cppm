// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <memory>
#include <memory_resource>

export module fmmap.stack:stack_resource;

import fmmap.core;
import :stack_pool;

export namespace fmmap {

/// A memory resource that takes its memory from a stack, from the top down: what is allocated last is deallocated first, at the
/// cost of moving a pointer.
///
/// What is deallocated in another order becomes free when all that was allocated after it has been deallocated. So it suits
/// coroutine frames, scratch containers, and vectors that have been reserved; a vector that grows leaves its former places behind
/// until it goes.
///
/// Thread safety: one thread at a time.
/// Fork: a child has a copy. Exec: gone.
class stack_resource final : public std::pmr::memory_resource {
public:
  /// Takes a stack of the pool, and gives it back when it goes.
  ///
  /// Errors: as `stack_pool::allocate`.
  [[nodiscard]] static auto create(stack_pool& pool) -> result<std::unique_ptr<stack_resource>>;

  ~stack_resource() override;

  /// Bytes that are allocated, with what is between objects and with those that are free and not on top.
  [[nodiscard]] inline auto used() const noexcept -> std::size_t {
    return static_cast<std::size_t>(memory_.top() - top_);
  }
  /// Bytes of the largest object that fits, where it is aligned to 16.
  [[nodiscard]] auto available() const noexcept -> std::size_t;

  /// The most that `used` has been.
  [[nodiscard]] inline auto peak() const noexcept -> std::size_t {
    return static_cast<std::size_t>(memory_.top() - lowest_);
  }

  /// Deallocates everything.
  ///
  /// Invalidates: all that is allocated.
  inline void release() noexcept { top_ = memory_.top(); }

private:
  explicit stack_resource(stack memory) noexcept;

  // Throws std::bad_alloc when it does not fit: there is no other place.
  [[nodiscard]] auto do_allocate(std::size_t size, std::size_t alignment) -> void* override;
  void do_deallocate(void* pointer, std::size_t size, std::size_t alignment) override;
  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override;

  stack memory_;
  std::byte* top_; // of what is free; what is allocated lies above
  std::byte* lowest_;
};

} // namespace fmmap
