// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstdint>

// A mutex of one word. An allocator has dozens, and a fork takes them all: of std::mutex the thread sanitizer bears 64 at a time.
export module fmmap.alloc:mutex;

export namespace fmmap::alloc {

class mutex {
public:
  mutex() noexcept = default;
  mutex(mutex const&) = delete;
  auto operator=(mutex const&) -> mutex& = delete;
  ~mutex() = default;

  inline void lock() noexcept {
    auto seen = free;
    if (!state_.compare_exchange_strong(seen, taken, std::memory_order_acquire, std::memory_order_relaxed))
        [[unlikely]] {
      wait_for_it();
    }
  }
  inline void unlock() noexcept {
    if (state_.exchange(free, std::memory_order_release) == waited_for) [[unlikely]] {
      state_.notify_one();
    }
  }

private:
  static constexpr std::uint32_t free = 0;
  static constexpr std::uint32_t taken = 1;
  static constexpr std::uint32_t waited_for = 2; // taken, and others wait

  // Who has waited takes it as waited for: others may be left.
  inline void wait_for_it() noexcept {
    while (state_.exchange(waited_for, std::memory_order_acquire) != free) {
      state_.wait(waited_for, std::memory_order_relaxed);
    }
  }

  std::atomic<std::uint32_t> state_{free};
};

} // namespace fmmap::alloc
