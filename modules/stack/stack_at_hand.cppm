// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <type_traits>

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
};
static_assert(std::is_standard_layout_v<stack_at_hand>);

} // namespace fmmap
