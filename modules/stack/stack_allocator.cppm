// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>

export module fmmap.stack:stack_allocator;

import :stack_pool;

export namespace fmmap {

/// What is the same of all `stack_allocator`.
class stack_lender {
protected:
  explicit stack_lender(stack_pool& pool) noexcept;

  // Its top. Throws std::bad_alloc.
  [[nodiscard]] auto lend() const -> std::byte*;
  void take_back(void* top) const noexcept;
  [[nodiscard]] auto size() const noexcept -> std::size_t;

private:
  pool_state* pool_;
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
