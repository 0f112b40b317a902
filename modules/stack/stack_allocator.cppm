// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>

export module fmmap.stack:stack_allocator;

import :stack_pool;
import :this_hand;

export namespace fmmap {

/// What is the same of all `stack_allocator`.
class stack_lender {
protected:
  inline explicit stack_lender(stack_pool& pool) noexcept : pool_{pool.state_}, size_{size_in(pool_)} {}

  // Its top. Throws std::bad_alloc.
  [[nodiscard]] inline auto lend() const -> std::byte* {
    if (auto* const top = this_hand::take(pool_); top != nullptr) [[likely]] {
      return top;
    }
    return lend_slowly(pool_);
  }
  inline void take_back(void* top) const noexcept {
    if (!this_hand::keep(pool_, top)) [[unlikely]] {
      take_back_slowly(pool_, top);
    }
  }
  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return size_; }

private:
  // Of the pool and not of the lender, which can lie in registers then.
  [[nodiscard]] static auto size_in(pool_state const* pool) noexcept -> std::size_t;
  [[nodiscard, gnu::noinline]] static auto lend_slowly(pool_state* pool) -> std::byte*;
  [[gnu::noinline]] static void take_back_slowly(pool_state* pool, void* top) noexcept;

  pool_state* pool_;
  std::size_t size_;
};

/// Lends stacks of a pool to a library of fibres: models Boost.Context's StackAllocator, whose type `stack_context` is `Context`.
///
/// The pool may move, and has to live as long as the stacks.
///
/// Thread safety: as of the pool.
template <class Context>
class stack_allocator : private stack_lender {
public:
  explicit stack_allocator(stack_pool& pool) noexcept : stack_lender{pool} {}

  /// Throws std::bad_alloc when there is none, whatever the reason.
  [[nodiscard]] auto allocate() -> Context {
    Context made;
    made.sp = lend();
    made.size = size();
    return made;
  }

  /// Ends the program, after a line on standard error, when no stack that was lent has that top.
  void deallocate(Context& context) noexcept { take_back(context.sp); }
};

} // namespace fmmap
