// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <cstddef>

// What each thread keeps of a pool for itself: the free stacks that it gave back last. Nothing here is exported; it is in an
// interface so that a stack is taken and given back without a call.
export module fmmap.stack:stack_cache;

namespace fmmap {

// No pool is there, and its value says that nobody has a stack.
inline constinit std::atomic<unsigned char> nobody{0};

struct cached_stack {
  std::byte* top = nullptr;
  std::atomic<unsigned char>* taken = &nobody; // the pool's note of whether somebody has it
};

// Belongs to a thread, and is in the lists of both.
struct stack_cache {
  static constexpr std::size_t most = 16;

  std::atomic<void*> pool{&nobody}; // whose stacks these are; never null
  cached_stack last{};              // that was taken or given back
  std::atomic<bool> is_last_free{false};
  std::size_t stack_size = 0;
  std::atomic<unsigned char>* taken = &nobody; // by slot
  std::atomic<std::size_t> count{0};           // of others that are free
  std::array<cached_stack, most - 1> others{};

  void const* thread = nullptr; // whose it is, by the address of something that is the thread's own
  stack_cache* next_of_thread = nullptr;
  stack_cache* next_of_pool = nullptr;

  [[nodiscard]] inline auto is_of(void const* wanted) const noexcept -> bool {
    return pool.load(std::memory_order_relaxed) == wanted;
  }

  // What was given back just now: no step of it waits for a value that the one before has written. Null when somebody has it.
  [[nodiscard]] inline auto take_last() noexcept -> cached_stack const* {
    if (!is_last_free.load(std::memory_order_relaxed)) [[unlikely]] {
      return nullptr;
    }
    is_last_free.store(false, std::memory_order_relaxed);
    last.taken->store(1, std::memory_order_relaxed);
    return &last;
  }

  // False when it is not what was taken just now, or nobody has it.
  [[nodiscard]] inline auto keep_last(void const* top) noexcept -> bool {
    if (last.top != top || last.taken->load(std::memory_order_relaxed) != 1) [[unlikely]] {
      return false;
    }
    last.taken->store(0, std::memory_order_relaxed);
    is_last_free.store(true, std::memory_order_relaxed);
    return true;
  }

  [[nodiscard]] auto is_full() const noexcept -> bool { return is_last_free && count == others.size(); }

  // Null when there is none.
  [[nodiscard]] auto take() noexcept -> cached_stack const*;
  // There is room.
  void keep(cached_stack const& one) noexcept;

  using half = std::array<cached_stack, most / 2>;
  // Those that were given back first, of a cache that is full.
  [[nodiscard]] auto drop_oldest() noexcept -> half;
};

inline constinit stack_cache no_cache;

// Of the pool that the calling thread used last. No cache, if something has to be done to stacks that are taken or given back.
inline constinit thread_local stack_cache* quick_cache = &no_cache;

} // namespace fmmap
