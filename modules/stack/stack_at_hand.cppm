// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>

// The stack that a thread has used last. Nothing here is exported; it is in an interface so that this one is taken and given back
// without a call.
export module fmmap.stack:stack_at_hand;

namespace fmmap {

// No pool is there, and its value says that nobody has a stack.
inline constinit std::atomic<unsigned char> nobody{0};

struct lent_stack {
  std::byte* top = nullptr;
  std::atomic<unsigned char>* taken = &nobody; // the pool's note of whether somebody has it
};

// Of one pool. What is in another thread's hand is looked at, under the lock of all pools, by who closes the pool.
//
// No step waits for a value that the one before has written: in a stack of free stacks each would wait for the number of them.
struct stack_at_hand {
  std::atomic<void*> pool{&nobody};            // never null
  std::atomic<void*> free_of{&nobody};         // the same, while the stack is free
  lent_stack last{};                           // what was taken or given back last
  std::atomic<unsigned char>* taken = &nobody; // the pool's, by slot
  std::size_t stack_size = 0;

  [[nodiscard]] inline auto is_of(void const* wanted) const noexcept -> bool {
    return pool.load(std::memory_order_relaxed) == wanted;
  }

  [[nodiscard]] inline auto is_free() const noexcept -> bool {
    return free_of.load(std::memory_order_relaxed) != &nobody;
  }

  // Null when somebody has it, or it is of another pool.
  [[nodiscard]] inline auto take(void const* of) noexcept -> lent_stack const* {
    if (free_of.load(std::memory_order_relaxed) != of) [[unlikely]] {
      return nullptr;
    }
    free_of.store(&nobody, std::memory_order_relaxed);
    last.taken->store(1, std::memory_order_relaxed);
    return &last;
  }

  // False when it is not what was taken last, of that pool, or nobody has it.
  [[nodiscard]] inline auto keep(void* of, void const* top) noexcept -> bool {
    if (last.top != top || !is_of(of) || last.taken->load(std::memory_order_relaxed) != 1) [[unlikely]] {
      return false;
    }
    last.taken->store(0, std::memory_order_relaxed);
    free_of.store(of, std::memory_order_relaxed);
    return true;
  }
};

// Hidden, so that it is of one copy of fmmap, as pools are, where shared libraries of a program have several.
[[gnu::visibility("hidden")]] inline constinit thread_local stack_at_hand at_hand;

} // namespace fmmap
