// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.stack;

import fmmap.core;
import fmmap.os;
import :pool_state;

// There in a program that is built with the address sanitizer, also when fmmap is not.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming): the name is the sanitizer's
extern "C" [[gnu::weak]] void __asan_unpoison_memory_region(void const volatile* begin, std::size_t size);
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)

namespace fmmap {

// Under the name by which modules/stack/this_hand_x86_64.cppm has it. Hidden, so that it is of one copy of fmmap, as pools are, where
// shared libraries of a program have several.
[[gnu::tls_model("initial-exec"),
  gnu::visibility("hidden")]] constinit thread_local stack_at_hand at_hand asm("fmmap_stack_at_hand");

namespace {

constexpr std::size_t most_threads = 256; // that keep stacks for themselves
constexpr std::size_t most_slots = UINT32_MAX / 2;
constexpr std::string_view create_operation = "create a pool of stacks";
constexpr std::string_view allocate_operation = "allocate a stack";

auto fail(errc code, std::string_view operation, std::string_view hint = {}) -> std::unexpected<error> {
  return std::unexpected(error::make(code, operation, {}, {}, hint));
}

auto fail(int code, std::string_view operation, std::string_view hint = {}) -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation, {}, {}, hint));
}

auto count_mappings_left() noexcept -> std::size_t {
  auto const left = os::count_mappings_left();
  if (!left) { // as where there is no /proc
    report_dropped_error(error::make({left.error(), std::system_category()}, "count mappings"));
  }
  return left.value_or(os::default_mappings - (os::default_mappings / 8));
}

// The next one who takes it would share it with somebody.
[[noreturn]] void die_of_giving_back(void const* top) noexcept {
  // NOLINTNEXTLINE(modernize-use-std-print): libstdc++ 12 has none
  std::fprintf(stderr, "fmmap: a stack is given back whose top is %p: nobody has such a one of this pool\n", top);
  std::fflush(stderr);
  std::abort();
}

constinit std::mutex all_pools_mutex; // of the list, and of all that is said to be under it
constinit pool_state* all_pools = nullptr;

constinit thread_local stack_cache* caches_of_thread = nullptr;
constinit thread_local bool has_ended = false;

// The calling thread's; null when it has none. Needs no lock: nobody else adds to the thread's list, and a pool that is being used
// stays in it.
auto find_cache(void const* pool) noexcept -> stack_cache* {
  auto* one = caches_of_thread;
  while (one != nullptr && !one->is_of(pool)) {
    one = one->next_of_thread;
  }
  return one;
}

} // namespace

// --- What threads have for themselves -------------------------------------------------------------------------------------

namespace {

auto is_free(stack_at_hand const& hand) noexcept -> bool {
  return hand.free_of.load(std::memory_order_relaxed) != &nobody;
}

} // namespace

auto stack_cache::is_of(void const* wanted) const noexcept -> bool {
  return pool.load(std::memory_order_relaxed) == wanted;
}

auto stack_cache::is_full() const noexcept -> bool {
  return count + (hand->pool == pool && is_free(*hand) ? 1U : 0U) == most;
}

void stack_cache::push(std::uint32_t slot) noexcept {
  auto const before = count.load(std::memory_order_relaxed);
  slots[before] = slot;
  count.store(before + 1, std::memory_order_release);
}

auto stack_cache::pop() noexcept -> std::optional<std::uint32_t> {
  auto const before = count.load(std::memory_order_relaxed);
  if (before == 0) {
    return {};
  }
  count.store(before - 1, std::memory_order_relaxed);
  return slots[before - 1];
}

auto stack_cache::drop_oldest() noexcept -> half {
  half oldest;
  auto const before = count.exchange(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  std::ranges::copy(std::span{slots}.first(oldest.size()), oldest.begin());
  std::ranges::copy(std::span{slots}.subspan(oldest.size()), slots.begin());
  count.store(before - oldest.size(), std::memory_order_release);
  return oldest;
}

auto pool_state::take_from(stack_cache& cache) noexcept -> std::optional<std::uint32_t> {
  auto& hand = *cache.hand;
  if (hand.pool == this && hand.free_of.exchange(&nobody) == this) {
    hand.last.taken->store(1, std::memory_order_relaxed);
    return slot_of(hand.last);
  }
  auto const slot = cache.pop();
  if (slot) {
    taken_[*slot].store(1, std::memory_order_relaxed);
    if (is_in(hand)) {
      hand.last = in_hand(*slot);
    }
  }
  return slot;
}

void pool_state::keep_in(stack_cache& cache, std::uint32_t slot) noexcept {
  taken_[slot].store(0, std::memory_order_relaxed);
  auto& hand = *cache.hand;
  if (!is_in(hand)) {
    cache.push(slot);
    return;
  }
  if (is_free(hand)) {
    hand.free_of.store(&nobody, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    cache.push(slot_of(hand.last));
  }
  hand.last = in_hand(slot);
  hand.free_of.store(this, std::memory_order_release);
}

// Hidden, as `os::at_fork` wants it.
class [[gnu::visibility("hidden")]] thread_stacks {
public:
  ~thread_stacks() {
    std::scoped_lock const lock{all_pools_mutex};
    has_ended = true;
    for (auto* one = std::exchange(caches_of_thread, nullptr); one != nullptr;) {
      if (!one->is_of(&nobody)) {
        detach(*static_cast<pool_state*>(one->pool.load(std::memory_order_relaxed)), *one);
      }
      delete std::exchange(one, one->next_of_thread);
    }
  }

  // The calling thread's cache of a pool, made when there is none; null when there can be none. The thread has a stack of that pool at
  // hand from then on. With the lock of all pools.
  static auto cache_of(pool_state& pool) noexcept -> stack_cache* {
    auto* found = find_cache(&pool);
    if (found == nullptr) {
      if (has_ended || pool.caches_left_ == 0) { // the destructors of the thread's own objects may still be running
        return nullptr;
      }
      found = find_cache(&nobody); // of a pool that is gone
      if (found == nullptr) {
        static thread_local thread_stacks const mine;
        found = new (std::nothrow) stack_cache;
        if (found == nullptr) {
          return nullptr;
        }
        found->hand = &at_hand;
        found->next_of_thread = std::exchange(caches_of_thread, found);
      }
      --pool.caches_left_;
      found->pool.store(&pool, std::memory_order_relaxed);
      found->next_of_pool = std::exchange(pool.caches_, found);
    }
    if (pool.shape_.is_plain && !pool.is_in(at_hand)) {
      take_in_hand(pool);
    }
    return found;
  }

  // What was the thread's alone is everybody's.
  static void empty(pool_state& pool, stack_cache& cache) noexcept {
    pool.share(std::span{cache.slots}.first(cache.count.exchange(0)));
    if (pool.is_in(*cache.hand) && cache.hand->free_of.exchange(&nobody) != &nobody) {
      auto const slot = pool.slot_of(cache.hand->last);
      pool.share({&slot, 1});
    }
  }

  static void detach(pool_state& pool, stack_cache& cache) noexcept {
    auto** link = &pool.caches_;
    while (*link != &cache) {
      link = &(*link)->next_of_pool;
    }
    *link = cache.next_of_pool;
    empty(pool, cache);
    if (pool.is_in(*cache.hand)) {
      cache.hand->pool.store(&nobody, std::memory_order_relaxed);
    }
    cache.pool.store(&nobody, std::memory_order_relaxed);
    ++pool.caches_left_;
  }

  static auto can_watch() noexcept -> bool { return failed_to_watch == 0; }

private:
  static void take_in_hand(pool_state& pool) noexcept {
    auto& hand = at_hand;
    if (is_free(hand)) {
      auto& former = *static_cast<pool_state*>(hand.pool.load(std::memory_order_relaxed));
      hand.free_of.store(&nobody, std::memory_order_relaxed);
      find_cache(&former)->push(former.slot_of(hand.last));
    }
    hand.last = {};
    hand.taken = pool.taken_.get();
    hand.stack_size = pool.shape_.stack;
    hand.pool.store(&pool, std::memory_order_relaxed);
  }

  // Registered before the program begins: a fork during a registration would leave the child with one half done.
  static auto watch_forks() noexcept -> int {
    return os::at_fork(
        +[] { all_pools_mutex.lock(); }, +[] { all_pools_mutex.unlock(); },
        +[] {
          for (auto* pool = all_pools; pool != nullptr; pool = pool->next_) {
            take_from_others(*pool);
          }
          all_pools_mutex.unlock();
        });
  }

  // In a child, which has none of the other threads.
  static void take_from_others(pool_state& pool) noexcept {
    for (auto* one = pool.caches_; one != nullptr;) {
      auto* const next = one->next_of_pool;
      if (one->hand != &at_hand) {
        detach(pool, *one); // and nobody deletes it, for nobody is left to
      }
      one = next;
    }
  }

  static int const failed_to_watch;
};

int const thread_stacks::failed_to_watch = thread_stacks::watch_forks();

// --- Beginning and end ----------------------------------------------------------------------------------------------------

auto pool_state::make(stack_options const& options) -> result<std::unique_ptr<pool_state>> {
  auto const page = os::page_size();
  auto const stack = os::round_up(options.stack_size, page);
  auto const guard = os::round_up(options.guard_size, page);
  if (options.stack_size == 0 || options.guard_size == 0 || options.capacity == 0) {
    return fail(errc::invalid_options, create_operation,
                "stacks, guards and the capacity have to be more than nothing");
  }
  if (!thread_stacks::can_watch()) {
    return fail(ENOMEM, create_operation);
  }
  auto const threads = std::clamp<std::size_t>(options.capacity / 32, 4, most_threads);
  auto const kept = (threads + 1) * stack_cache::most; // and one who trims
  auto const guards = options.guard == stack_guard::both ? 2U : 1U;
  constexpr auto address_space = std::uint64_t{1} << 47U;
  if (!stack || !guard || *stack > address_space || *guard > address_space || options.capacity > most_slots ||
      options.capacity + kept > address_space / (*stack + (guards * *guard))) {
    return fail(errc::invalid_options, create_operation, "so many stacks of that size are more than any address space");
  }
  shape const wanted{.stack = static_cast<std::size_t>(*stack),
                     .guard = static_cast<std::size_t>(*guard),
                     .high_guard = guards == 2 ? static_cast<std::size_t>(*guard) : 0,
                     .resident = std::min(static_cast<std::size_t>(*stack), options.resident_bytes / page * page),
                     .slots = options.capacity + kept,
                     .caches = threads,
                     .scrubs = options.scrub,
                     .is_plain = !options.scrub && __asan_unpoison_memory_region == nullptr};
  auto const length = (wanted.slots * (wanted.guard + wanted.stack + wanted.high_guard)) + wanted.guard;
  constexpr os::map_flags memory{.shared = false, .anonymous = true, .stack = true, .no_reserve = true};
  auto const mapped = os::map(nullptr, length, {.read = true, .write = true}, memory, os::no_descriptor, 0);
  if (!mapped) {
    return fail(mapped.error(), create_operation,
                std::to_string(length) +
                    " bytes of address space; where vm.overcommit_memory is 2, all of it is counted");
  }
  std::unique_ptr<pool_state> made;
  try {
    made.reset(new pool_state{wanted, *mapped});
  } catch (...) {
    (void)os::unmap(*mapped, length);
    throw;
  }
  // MAP_STACK asks for that from Linux 6.7 on. Where there are no huge pages, it cannot be asked.
  (void)os::advise(*mapped, length, os::advice_value::no_huge_page);
  std::scoped_lock const lock{all_pools_mutex};
  auto const guarded = made->install_guard(*mapped, wanted.guard);
  if (!guarded) {
    return fail(guarded.error(), create_operation, "it is the first guard");
  }
  if (made->added_mappings_ > 0 && made->mappings_to_come() > made->mappings_allowed_) {
    auto const possible = made->mappings_allowed_ / 2;
    return fail(ENOMEM, create_operation,
                "guards are two mappings for each stack here, and vm.max_map_count leaves as many as a capacity of " +
                    std::to_string(possible - std::min(possible, kept)) + " needs");
  }
  made->next_ = std::exchange(all_pools, made.get());
  made->link_ = &all_pools;
  if (made->next_ != nullptr) {
    made->next_->link_ = &made->next_;
  }
  return made;
}

pool_state::pool_state(shape const& wanted, std::byte* base)
    : shape_{wanted},
      stride_{wanted.guard + wanted.stack + wanted.high_guard},
      base_{base},
      length_{(wanted.slots * stride_) + wanted.guard},
      taken_{std::make_unique<std::atomic<unsigned char>[]>(wanted.slots)},
      caches_left_{wanted.caches} {
  free_.reserve(wanted.slots);
}

pool_state::~pool_state() {
  if (is_mapped_) {
    (void)os::unmap(base_, length_);
  }
}

auto pool_state::close() -> result<void> {
  std::scoped_lock const lock{all_pools_mutex};
  if (auto const held = alive(fresh_); held > 0) {
    return fail(errc::in_use, "close a pool of stacks", std::to_string(held) + " of its stacks are alive");
  }
  while (caches_ != nullptr) {
    thread_stacks::detach(*this, *caches_);
  }
  *link_ = next_;
  if (next_ != nullptr) {
    next_->link_ = link_;
  }
  is_mapped_ = false;
  auto const done = os::unmap(base_, length_);
  return done ? result<void>{} : fail(done.error(), "close a pool of stacks");
}

// --- Stacks -----------------------------------------------------------------------------------------------------------------

auto pool_state::take() -> result<std::uint32_t> {
  if (auto* const cache = find_cache(this); cache != nullptr) {
    if (auto const slot = take_from(*cache); slot) {
      return *slot;
    }
  }
  return take_slowly();
}

// Takes half a cache besides, of what has been used before.
auto pool_state::take_slowly() -> result<std::uint32_t> {
  std::scoped_lock const lock{all_pools_mutex};
  auto const slot = take_shared();
  if (!slot) {
    return slot;
  }
  if (auto* const cache = thread_stacks::cache_of(*this); cache != nullptr) {
    for (auto few = stack_cache::most / 2; few > 0 && !free_.empty(); --few) {
      cache->push(free_.back());
      free_.pop_back();
    }
    if (is_in(at_hand)) {
      at_hand.last = in_hand(*slot);
    }
  }
  taken_[*slot].store(1, std::memory_order_relaxed);
  return slot;
}

auto pool_state::take_shared() -> result<std::uint32_t> {
  if (!free_.empty()) {
    auto const slot = free_.back();
    free_.pop_back();
    return slot;
  }
  if (fresh_ == shape_.slots) {
    return fail(errc::reservation_exceeded, allocate_operation,
                "all stacks of the pool are in use: give some back, or make it with a larger capacity");
  }
  auto const slot = static_cast<std::uint32_t>(fresh_);
  // Its low guard is there, with that of the slot below or from the beginning. Behind it is its high guard, and the low one of
  // the next.
  if (auto const done = install_guard(bottom_of(slot) + shape_.stack, shape_.high_guard + shape_.guard); !done) {
    return fail(done.error(), allocate_operation, "there has to be a guard");
  }
  ++fresh_;
  return slot;
}

auto pool_state::install_guard(std::byte* at, std::size_t length) -> os::outcome<void> {
  auto done = os::retry([&] { return os::advise(at, length, os::advice_value::guard_install); });
  auto const is_unknown = [](int code) { return code == EINVAL || code == ENOSYS || code == EPERM || code == EACCES; };
  if (done || !is_unknown(done.error())) {
    return done;
  }
  // Linux before 6.13, memory that is locked, or a filter of system calls.
  if (!has_counted_) {
    has_counted_ = true;
    mappings_allowed_ = count_mappings_left();
    for (auto const* other = all_pools; other != nullptr; other = other->next_) {
      mappings_allowed_ -= std::min(mappings_allowed_, other->mappings_to_come());
    }
  }
  if (added_mappings_ + 2 > mappings_allowed_) {
    return std::unexpected(ENOMEM);
  }
  done = os::protect(at, length, {.read = false});
  added_mappings_ += done ? 2 : 0;
  return done;
}

void pool_state::give_back(std::uint32_t slot) noexcept {
  if (taken_[slot].load(std::memory_order_relaxed) != 1) [[unlikely]] {
    die_of_giving_back(bottom_of(slot) + shape_.stack);
  }
  if (__asan_unpoison_memory_region != nullptr) { // of frames that were never left
    __asan_unpoison_memory_region(bottom_of(slot), shape_.stack);
  }
  if (shape_.scrubs) {
    scrub(slot);
  }
  auto* cache = find_cache(this);
  if (cache == nullptr) {
    std::scoped_lock const lock{all_pools_mutex};
    cache = thread_stacks::cache_of(*this);
  }
  if (cache == nullptr) {
    release_and_share({&slot, 1});
    return;
  }
  if (cache->is_full()) {
    release_and_share(cache->drop_oldest());
  }
  keep_in(*cache, slot);
}

// What is locked in memory stays there.
void pool_state::release_and_share(std::span<std::uint32_t const> slots) noexcept {
  for (auto const slot : slots) {
    (void)release_memory(slot, shape_.resident);
  }
  std::scoped_lock const lock{all_pools_mutex};
  share(slots);
}

void pool_state::share(std::span<std::uint32_t const> slots) noexcept {
  for (auto const slot : slots) {
    taken_[slot].store(0, std::memory_order_relaxed); // a fork may have found it half taken
    free_.push_back(slot);
  }
}

void pool_state::give_back(void* top) noexcept {
  auto const highest = reinterpret_cast<std::uintptr_t>(top) - reinterpret_cast<std::uintptr_t>(base_) - 1;
  auto const slot = highest / stride_;
  auto const is_one = slot < shape_.slots && top == bottom_of(static_cast<std::uint32_t>(slot)) + shape_.stack;
  if (!is_one) [[unlikely]] {
    die_of_giving_back(top);
  }
  give_back(static_cast<std::uint32_t>(slot));
}

auto pool_state::slot_of(void const* address) const noexcept -> std::optional<std::size_t> {
  auto const offset = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(base_);
  auto const slot = offset / stride_;
  return slot < shape_.slots ? std::optional{slot} : std::nullopt;
}

// --- Memory -----------------------------------------------------------------------------------------------------------------

auto pool_state::release_memory(std::uint32_t slot, std::size_t kept) const noexcept -> os::outcome<void> {
  auto const length = shape_.stack - std::min(kept, shape_.stack);
  return length == 0 ? os::outcome<void>{}
                     : os::retry([&] { return os::advise(bottom_of(slot), length, os::advice_value::dont_need); });
}

void pool_state::scrub(std::uint32_t slot) const noexcept {
  auto const released = release_memory(slot, shape_.resident);
  auto const length = released ? shape_.resident : shape_.stack; // locked memory cannot be released
  std::memset(bottom_of(slot) + (shape_.stack - length), 0, length);
}

// A few at a time, which nobody can have meanwhile; others are not kept waiting.
auto pool_state::trim() -> result<void> {
  std::unique_lock lock{all_pools_mutex};
  if (auto* const cache = find_cache(this); cache != nullptr) {
    thread_stacks::empty(*this, *cache);
  }
  auto outcome = result<void>{};
  std::array<std::uint32_t, stack_cache::most> few{};
  auto left = free_.size();
  for (std::size_t at = 0; left > 0 && at < free_.size();) {
    auto const count = std::min({few.size(), left, free_.size() - at});
    for (auto& slot : std::span{few}.first(count)) {
      slot = std::exchange(free_[at], free_.back());
      free_.pop_back();
    }
    lock.unlock();
    for (auto const slot : std::span{few}.first(count)) {
      auto done = release_memory(slot, 0);
      if (!done && done.error() == EINVAL) { // locked
        done = os::advise(bottom_of(slot), shape_.stack, os::advice_value::dont_need_locked);
      }
      if (!done && outcome) {
        outcome = fail(done.error(), "trim a pool of stacks");
      }
    }
    lock.lock();
    for (auto const slot : std::span{few}.first(count)) {
      at = std::min(at, free_.size());
      free_.push_back(slot);
      std::swap(free_[at++], free_.back());
    }
    left -= count;
  }
  return outcome;
}

auto pool_state::alive(std::size_t used) const noexcept -> std::size_t {
  std::size_t count = 0;
  for (std::size_t slot = 0; slot < used; ++slot) {
    count += taken_[slot].load(std::memory_order_relaxed);
  }
  return count;
}

auto pool_state::stats() const -> stack_stats {
  std::unique_lock lock{all_pools_mutex};
  auto const used = fresh_;
  auto const added = added_mappings_;
  lock.unlock();
  auto const held = alive(used);
  return {.alive = held, .cached = used - held, .slots = shape_.slots, .added_mappings = added};
}

} // namespace fmmap
