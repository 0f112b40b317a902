// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

// What a stack_pool is. Implementation units only.
module fmmap.stack:pool_state;

import fmmap.core;
import fmmap.os;
import :stack_at_hand;
import :stack_pool;

namespace fmmap {

// Free stacks that a thread has for itself, those it gave back last on top, but for one that is at hand. Belongs to the thread, and
// is in the lists of both.
//
// A fork by another thread may come between any two steps: what is free is in one place before it is in the other, or in none.
struct stack_cache {
  static constexpr std::size_t most = 16; // with that at hand
  using half = std::array<std::uint32_t, most / 2>;

  std::atomic<void*> pool{&nobody}; // never null
  std::atomic<std::size_t> count{0};
  std::array<std::uint32_t, most> slots{};
  stack_at_hand* hand = nullptr; // of the thread, which is known by it
  stack_cache* next_of_thread = nullptr;
  stack_cache* next_of_pool = nullptr;

  [[nodiscard]] auto is_of(void const* wanted) const noexcept -> bool;
  [[nodiscard]] auto is_full() const noexcept -> bool;
  void push(std::uint32_t slot) noexcept;
  [[nodiscard]] auto pop() noexcept -> std::optional<std::uint32_t>;
  // Those that were given back first, of a cache that is full.
  [[nodiscard]] auto drop_oldest() noexcept -> half;
};

class pool_state {
public:
  // Errors: as `stack_pool::create`.
  [[nodiscard]] static auto make(stack_options const& options) -> result<std::unique_ptr<pool_state>>;

  pool_state(pool_state const&) = delete;
  auto operator=(pool_state const&) -> pool_state& = delete;
  ~pool_state();

  // A slot with a guard, whose stack is nobody's.
  [[nodiscard]] auto take() -> result<std::uint32_t>;
  // The slot has been taken.
  void give_back(std::uint32_t slot) noexcept;
  // The same, of a stack that a program names by its top. Ends the program when it has no such one.
  void give_back(void* top) noexcept;

  [[nodiscard]] auto stack_size() const noexcept -> std::size_t { return shape_.stack; }
  [[nodiscard]] auto bottom_of(std::uint32_t slot) const noexcept -> std::byte* {
    return base_ + (slot * stride_) + shape_.guard;
  }
  [[nodiscard]] auto slot_of(void const* address) const noexcept -> std::optional<std::size_t>;
  [[nodiscard]] auto slots() const noexcept -> std::size_t { return shape_.slots; }

  [[nodiscard]] auto trim() -> result<void>;
  [[nodiscard]] auto stats() const -> stack_stats;

  // Unmaps, unless stacks are alive.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend class thread_stacks;

  struct shape {
    std::size_t stack;
    std::size_t guard;      // below a stack
    std::size_t high_guard; // above it, 0 without one
    std::size_t resident;
    std::size_t slots;
    std::size_t caches; // threads that may have one
    bool scrubs;
    bool is_plain; // nothing has to be done to a stack that is taken or given back
  };
  pool_state(shape const& wanted, std::byte* base);

  [[nodiscard]] auto take_slowly() -> result<std::uint32_t>;
  // In and out of a cache of the calling thread.
  [[nodiscard]] auto take_from(stack_cache& cache) noexcept -> std::optional<std::uint32_t>;
  void keep_in(stack_cache& cache, std::uint32_t slot) noexcept;
  void release_and_share(std::span<std::uint32_t const> slots) noexcept;

  // With the lock of all pools.
  [[nodiscard]] auto take_shared() -> result<std::uint32_t>;
  [[nodiscard]] auto install_guard(std::byte* at, std::size_t length) -> os::outcome<void>;
  // That its guards may still need; none, as long as they are markers.
  [[nodiscard]] auto mappings_to_come() const noexcept -> std::size_t {
    return added_mappings_ == 0 ? 0 : (2 * shape_.slots) + 2 - added_mappings_;
  }
  void share(std::span<std::uint32_t const> slots) noexcept;

  [[nodiscard]] auto is_in(stack_at_hand const& hand) const noexcept -> bool {
    return hand.pool.load(std::memory_order_relaxed) == this;
  }
  [[nodiscard]] auto in_hand(std::uint32_t slot) const noexcept -> lent_stack {
    return {.top = bottom_of(slot) + shape_.stack, .taken = &taken_[slot]};
  }
  [[nodiscard]] auto slot_of(lent_stack const& one) const noexcept -> std::uint32_t {
    return static_cast<std::uint32_t>(one.taken - taken_.get());
  }

  // Of the slots below `used`. Needs no lock.
  [[nodiscard]] auto alive(std::size_t used) const noexcept -> std::size_t;

  // All but the `kept` bytes at the top.
  [[nodiscard]] auto release_memory(std::uint32_t slot, std::size_t kept) const noexcept -> os::outcome<void>;
  void scrub(std::uint32_t slot) const noexcept;

  shape const shape_;
  std::size_t const stride_; // of a slot, with its guards
  std::byte* const base_;
  std::size_t const length_;
  std::unique_ptr<std::atomic<unsigned char>[]> taken_; // by slot: whether somebody has it

  // Under the lock of all pools.
  std::size_t fresh_ = 0;           // slots from there on have never been taken
  std::vector<std::uint32_t> free_; // has room for all slots
  std::size_t added_mappings_ = 0;
  std::size_t mappings_allowed_ = 0; // as far as it is known
  bool has_counted_ = false;
  stack_cache* caches_ = nullptr;
  std::size_t caches_left_;
  bool is_mapped_ = true;
  pool_state* next_ = nullptr; // of all pools
  pool_state** link_ = nullptr;
};

} // namespace fmmap
