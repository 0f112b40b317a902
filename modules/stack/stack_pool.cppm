// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <utility>

export module fmmap.stack:stack_pool;

import fmmap.core;
import :this_hand;

namespace fmmap {
class pool_state; // defined in src/stack/pool_state.cppm
} // namespace fmmap

export namespace fmmap {

/// Where a stack has memory that nobody can touch: an access there is SIGSEGV.
enum class stack_guard : unsigned char {
  /// Below the lowest byte, where a stack that is too deep arrives. What is above the top belongs to the next slot's guard.
  low,
  /// Above the top too, in a guard of the stack's own, so that `slot_of` tells whose.
  both,
};

struct stack_options {
  /// Bytes of each stack, without guards; rounded up to whole pages.
  std::size_t stack_size = std::size_t{256} << 10;
  /// Stacks that can be had at a time, at least, whichever threads have them. Threads keep some for themselves, so there are a few more:
  /// 80 for small pools, one in two for large ones, and 4 112 at most.
  std::size_t capacity = 1024;
  stack_guard guard = stack_guard::low;
  /// Bytes of each guard, rounded up to whole pages. A function whose frame is larger can step over it, unless it is compiled
  /// with -fstack-clash-protection.
  std::size_t guard_size = 4096;
  /// Bytes at the top that stay in memory when a stack is given back. What is below them is released when the stack leaves the
  /// cache of its thread.
  std::size_t resident_bytes = 16384;
  /// Makes every stack that is handed out read as zero, from the first byte to the last.
  bool scrub = false;
};

struct stack_stats {
  /// Stacks that are in somebody's hands.
  std::size_t alive = 0;
  /// Stacks that have been used and wait to be used again, those in the caches of threads included.
  std::size_t cached = 0;
  /// Slots of the pool, more than its capacity: threads keep some for themselves. `slot_of` is below this.
  std::size_t slots = 0;
  /// Mappings that the guards have added to the process: 0 where the system has guards of its own.
  std::size_t added_mappings = 0;
};

class stack_pool;
class stack_lender;

/// A stack of a pool, given back when it dies. An object of nothing when moved from.
///
/// It may outlive its pool, whose memory stays then. Giving it back ends the program, after a line on standard error, when somebody else
/// has given it back already.
///
/// Thread safety: may be given back by any thread. Needs that nobody runs on it.
class [[nodiscard]] stack {
public:
  inline stack() noexcept = default;
  inline stack(stack&& other) noexcept
      : pool_{std::exchange(other.pool_, nullptr)},
        bottom_{std::exchange(other.bottom_, nullptr)},
        size_{std::exchange(other.size_, 0)},
        slot_{other.slot_} {}
  inline auto operator=(stack&& other) noexcept -> stack& {
    stack old{std::move(*this)};
    pool_ = std::exchange(other.pool_, nullptr);
    bottom_ = std::exchange(other.bottom_, nullptr);
    size_ = std::exchange(other.size_, 0);
    slot_ = other.slot_;
    return *this;
  }
  inline ~stack() {
    if (pool_ != nullptr) {
      give_back();
    }
  }

  /// The lowest byte: what pthread_attr_setstack(3) and sigaltstack(2) take. A multiple of the page size, as is the top.
  [[nodiscard]] inline auto bottom() const noexcept -> std::byte* { return bottom_; }
  /// Behind the highest byte: where a stack begins on processors on which it grows down.
  [[nodiscard]] inline auto top() const noexcept -> std::byte* { return bottom_ + size_; }
  /// In bytes.
  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return size_; }
  /// What `stack_pool::slot_of` tells of it.
  [[nodiscard]] inline auto slot() const noexcept -> std::size_t { return slot_; }

  /// Bytes from the top down to the lowest page that is in memory: how deep the stack has been since its memory was released last,
  /// which may have been before it was handed out. In whole pages, also those that were only read; what is swapped out is not seen,
  /// and locked memory is all there. Takes as long as the stack is large. Source: mincore(2).
  [[nodiscard]] auto high_water() const noexcept -> std::size_t;

private:
  friend stack_pool;
  inline stack(pool_state* pool, std::byte* bottom, std::size_t size, std::uint32_t slot) noexcept
      : pool_{pool}, bottom_{bottom}, size_{size}, slot_{slot} {}
  inline void give_back() noexcept {
    if (!this_hand::keep(pool_, top())) [[unlikely]] {
      give_back_slowly();
    }
  }
  [[gnu::noinline]] void give_back_slowly() noexcept;

  pool_state* pool_ = nullptr;
  std::byte* bottom_ = nullptr;
  std::size_t size_ = 0;
  std::uint32_t slot_ = 0;
};

/// Stacks of one size in one run of the address space, each with a guard.
///
/// A guard is a marker in the page tables from Linux 6.13 on (MADV_GUARD_INSTALL): all stacks are one mapping then. Elsewhere,
/// and in memory that is locked, it is an inaccessible mapping, of which the system allows a limited number
/// (vm.max_map_count). A stack without a guard is never handed out.
///
/// Thread safety: all members but `close`, assignment and destruction may be called from any thread. Each thread keeps up to 16
/// stacks for itself, those it gave back last, and takes no lock for them.
/// Fork: a child has copies of all stacks, and may use and give back what it had; what other threads of the parent had in hand
/// is not given back. Exec, exit: gone.
class stack_pool {
public:
  /// Holds the address space. Memory is used by stacks that have been touched.
  ///
  /// Errors: `errc::invalid_options` for no stacks, stacks or guards of nothing, or more than the address space has;
  /// `std::errc::not_enough_memory` when there is no room, as where vm.overcommit_memory is 2, or when vm.max_map_count does
  /// not allow for the guards.
  [[nodiscard]] static auto create(stack_options options = {}) -> result<stack_pool>;

  /// A pool of nothing, as is one that was moved from or closed: what is asked of it is `errc::closed`.
  stack_pool() noexcept = default;
  inline stack_pool(stack_pool&& other) noexcept : state_{std::exchange(other.state_, nullptr)} {}
  auto operator=(stack_pool&& other) noexcept -> stack_pool&;
  /// Reports as dropped that stacks are alive, which stay valid then: the memory is not unmapped.
  ~stack_pool();

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return state_ != nullptr; }

  /// The stack that the calling thread gave back last, or another one. Its contents are what was left there, unless it is scrubbed.
  ///
  /// Errors: `errc::reservation_exceeded` when all are in use; `std::errc::not_enough_memory` when a guard cannot be had;
  /// `errc::closed`.
  [[nodiscard]] inline auto allocate() -> result<stack> {
    if (auto* const top = this_hand::take(state_); top != nullptr) [[likely]] {
      auto const size = this_hand::size();
      return stack{state_, top - size, size, this_hand::slot()};
    }
    return allocate_slowly();
  }

  /// Whose stack, or which stack's guard, has this address: a number below `stats().slots`.
  ///
  /// Safe in a signal handler, which tells so who has overflowed. What is above the highest of all slots is nobody's, where stacks
  /// are guarded below. Asks the pool where it is now: an object that was moved from knows nothing.
  [[nodiscard]] auto slot_of(void const* address) const noexcept -> std::optional<std::size_t>;

  /// The bytes of a slot that are its stack's, without guards; nothing for a number that is none.
  ///
  /// Safe in a signal handler.
  [[nodiscard]] auto bytes_of(std::size_t slot) const noexcept -> std::span<std::byte>;

  /// Releases the memory of all stacks that wait to be used again, but for the caches of other threads; locked memory too, from Linux
  /// 5.18 on. Others may take and give back stacks meanwhile.
  ///
  /// Errors: what madvise(2) reports, when all others have been released.
  [[nodiscard]] auto trim() -> result<void>;

  [[nodiscard]] auto stats() const -> stack_stats;

  /// Unmaps. Errors: `errc::in_use` while stacks are alive, and the pool is as it was; `errc::closed`; what munmap(2) reports.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend stack_lender;
  explicit stack_pool(pool_state* state) noexcept : state_{state} {}
  [[nodiscard, gnu::noinline]] auto allocate_slowly() -> result<stack>;

  pool_state* state_ = nullptr;
};

} // namespace fmmap
