// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

// The calling thread's stack_at_hand, which src/stack/pool_state.cpp defines.
//
// Every access is relative to the thread as it is then. Compilers keep the address of a thread's variable once they have found it, and
// a fibre may be another thread's by the time it gives its stack back.
export module fmmap.stack:this_hand;

import :stack_at_hand;

namespace fmmap::this_hand {

// Where it lies, relative to every thread's own address: the same for all of them.
[[nodiscard]] inline auto place() noexcept -> std::ptrdiff_t {
  std::ptrdiff_t place = 0;
  asm("movq fmmap_stack_at_hand@gottpoff(%%rip), %0" : "=r"(place));
  return place;
}

template <class Value, std::size_t Member>
[[nodiscard]] inline auto load(std::ptrdiff_t at) noexcept -> Value {
  static_assert(std::is_pointer_v<Value> || std::is_same_v<Value, std::size_t>);
  Value value;
  asm volatile("movq %%fs:%c2(%1), %0" : "=r"(value) : "r"(at), "i"(Member) : "memory");
  return value;
}

template <std::size_t Member>
inline void store(std::ptrdiff_t at, void const* value) noexcept {
  asm volatile("movq %0, %%fs:%c2(%1)" : : "r"(value), "r"(at), "i"(Member) : "memory");
}

inline constexpr std::size_t pool = offsetof(stack_at_hand, pool);
inline constexpr std::size_t free_of = offsetof(stack_at_hand, free_of);
inline constexpr std::size_t last_top = offsetof(stack_at_hand, last) + offsetof(lent_stack, top);
inline constexpr std::size_t last_taken = offsetof(stack_at_hand, last) + offsetof(lent_stack, taken);

// Null when somebody has it, or it is of another pool.
[[nodiscard]] inline auto take(void const* of) noexcept -> std::byte* {
  auto const at = place();
  if (load<void const*, free_of>(at) != of) [[unlikely]] {
    return nullptr;
  }
  store<free_of>(at, &nobody);
  load<std::atomic<unsigned char>*, last_taken>(at)->store(1, std::memory_order_relaxed);
  return load<std::byte*, last_top>(at);
}

// False when it is not what was taken last, of that pool, or nobody has it.
[[nodiscard]] inline auto keep(void const* of, void const* top) noexcept -> bool {
  auto const at = place();
  if (load<void const*, last_top>(at) != top || load<void const*, pool>(at) != of) [[unlikely]] {
    return false;
  }
  auto* const taken = load<std::atomic<unsigned char>*, last_taken>(at);
  if (taken->load(std::memory_order_relaxed) != 1) [[unlikely]] {
    return false;
  }
  taken->store(0, std::memory_order_relaxed);
  store<free_of>(at, of);
  return true;
}

// Of what was taken just now.
[[nodiscard]] inline auto size() noexcept -> std::size_t {
  return load<std::size_t, offsetof(stack_at_hand, stack_size)>(place());
}
[[nodiscard]] inline auto slot() noexcept -> std::uint32_t {
  auto const at = place();
  return static_cast<std::uint32_t>(load<std::atomic<unsigned char>*, last_taken>(at) -
                                    load<std::atomic<unsigned char>*, offsetof(stack_at_hand, taken)>(at));
}

} // namespace fmmap::this_hand
