// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

module fmmap.exec;

import fmmap.alloc;
import fmmap.core;
import fmmap.os;
import :arena_state;
import :code_listing;
import :code_memory;
import :debugger;
import :machine;

namespace fmmap {

namespace {

constexpr std::size_t most_reserve = std::size_t{2} << 30;
constexpr std::size_t most_kept = std::size_t{1} << 20; // bytes of buffers for the next batch
constexpr std::size_t reclaimed_at_once = 256; // functions that are retired, before anybody looks whether they can go

auto fail(errc code, std::string_view operation, std::string_view hint = {}) -> std::unexpected<error> {
  return std::unexpected(error::make(code, operation, {}, {}, hint));
}

auto fail(int code, std::string_view operation) -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation));
}

constexpr auto in_lines(std::size_t size) noexcept -> std::size_t { return (size + line - 1) / line * line; }

} // namespace

// --- Which functions there are --------------------------------------------------------------------------------------------

auto code_index::make(std::size_t reserve) -> result<code_index> {
  auto words = mapping::anonymous(reserve / line * sizeof(cell));
  return words ? result<code_index>{code_index{std::move(*words)}} : std::unexpected(std::move(words).error());
}

auto code_index::usage_up_to(std::size_t end) const noexcept -> usage {
  usage found;
  std::size_t free_since = 0;
  for (std::size_t offset = 0; offset < end;) {
    auto const word = at(offset).load(std::memory_order_relaxed);
    if (word == 0 || (word & inside) != 0) { // the latter of a function that is being added or removed
      offset += line;
      continue;
    }
    found.longest_free = std::max(found.longest_free, offset - free_since);
    auto const length = in_lines(size_in(word));
    found.used += length;
    offset += length;
    free_since = offset;
  }
  found.free_at_end = end - std::min(end, free_since);
  return found;
}

void code_index::add(std::size_t offset, std::size_t size) noexcept {
  for (std::size_t back = 1; back * line < size; ++back) {
    at(offset + (back * line)).store(inside | static_cast<std::uint32_t>(back), std::memory_order_relaxed);
  }
  at(offset).store(word_of(kind::allocated, size), std::memory_order_release);
}

void code_index::set(std::size_t offset, kind now) noexcept {
  auto const word = at(offset);
  word.store(word_of(now, size_in(word.load(std::memory_order_relaxed))), std::memory_order_release);
}

void code_index::remove(std::size_t offset) noexcept {
  auto const size = size_in(at(offset).load(std::memory_order_relaxed));
  for (std::size_t at_line = 0; at_line < size; at_line += line) {
    at(offset + at_line).store(0, std::memory_order_relaxed);
  }
}

// --- Who may be executing what --------------------------------------------------------------------------------------------

auto guards::begin() noexcept -> unsigned {
  static constinit std::atomic<unsigned> threads{0};
  thread_local auto const mine = threads.fetch_add(1, std::memory_order_relaxed) % stripes;
  while (true) {
    auto const generation = generation_.load();
    auto const side = static_cast<unsigned>(generation & 1U);
    all_[mine].begun[side].fetch_add(1);
    // Of a generation that has ended meanwhile nobody waits for the guards.
    if (generation_.load() == generation) [[likely]] {
      return (mine << 1U) | side;
    }
    all_[mine].begun[side].fetch_sub(1);
  }
}

void guards::end(unsigned place) noexcept {
  all_[place >> 1U].begun[place & 1U].fetch_sub(1, std::memory_order_release);
}

void guards::advance() noexcept {
  for (int i = 0; i < 2; ++i) { // after which what was just retired can go, where nobody guards anything
    auto const next = generation_.load() + 1;
    auto const side = static_cast<unsigned>(next & 1U); // that of the generation before the current one
    if (std::ranges::any_of(all_, [&](stripe const& one) { return one.begun[side].load() != 0; })) {
      return;
    }
    generation_.store(next);
  }
}

// --- All arenas, for a fork -------------------------------------------------------------------------------------------------

// Hidden, as `os::at_fork` wants it.
class [[gnu::visibility("hidden")]] open_arenas {
public:
  static void add(arena_state& one) {
    std::scoped_lock const lock{mutex};
    one.next_ = first;
    one.link_ = &first;
    if (first != nullptr) {
      first->link_ = &one.next_;
    }
    first = &one;
  }

  static void remove(arena_state& one) noexcept {
    std::scoped_lock const lock{mutex};
    if (one.link_ == nullptr) {
      return;
    }
    *one.link_ = one.next_;
    if (one.next_ != nullptr) {
      one.next_->link_ = one.link_;
    }
    one.link_ = nullptr;
  }

  static auto can_watch() noexcept -> bool { return failed_to_watch == 0; }

private:
  // Registered before the program begins: a fork during a registration would leave the child with one half done.
  static auto watch_forks() noexcept -> int {
    return os::at_fork(
        +[] {
          mutex.lock();
          debugger::lock();
        },
        +[] {
          debugger::unlock();
          mutex.unlock();
        },
        +[] {
          debugger::unlock();
          for (auto* one = first; one != nullptr; one = one->next_) {
            one->memory_->forget();
            if (one->listing_) {
              one->listing_->forget();
            }
            auto open = arena_state::state::open;
            one->state_.compare_exchange_strong(open, arena_state::state::forked);
          }
          mutex.unlock();
        });
  }

  static constinit std::mutex mutex;
  static constinit arena_state* first;
  static int const failed_to_watch;
};

constinit std::mutex open_arenas::mutex;
constinit arena_state* open_arenas::first = nullptr;
int const open_arenas::failed_to_watch = open_arenas::watch_forks();

// --- Beginning and end ------------------------------------------------------------------------------------------------------

auto arena_state::make(code_arena_options const& options) -> result<std::shared_ptr<arena_state>> {
  constexpr std::string_view operation = "create an arena for code";
  auto const reserve = os::round_up(options.reserve, os::page_size());
  if (options.reserve == 0 || !reserve || *reserve > most_reserve) {
    return fail(errc::invalid_options, operation, "the reserve has to be more than nothing, and at most 2 GiB");
  }
  if (!open_arenas::can_watch()) {
    return fail(ENOMEM, operation);
  }
  auto memory = code_memory::make({.reserve = static_cast<std::size_t>(*reserve),
                                   .strategy = options.strategy,
                                   .near_text = options.near_text,
                                   .for_perf = options.perf_map});
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  auto index = code_index::make((*memory)->reserve());
  if (!index) {
    return std::unexpected(std::move(index).error());
  }
  std::unique_ptr<code_listing> listing;
  if (options.perf_map || options.debugger) {
    auto wanted = code_listing::make(options.perf_map, options.debugger);
    if (!wanted) {
      return std::unexpected(std::move(wanted).error());
    }
    listing = std::move(*wanted);
  }
  auto made = std::make_shared<arena_state>(std::move(*memory), std::move(*index), std::move(listing));
  auto allocator = alloc::allocator::make(
      *made, {.origin = made->memory_->base(), .limit = made->memory_->reserve(), .shared_with_children = true});
  if (!allocator) {
    return std::unexpected(std::move(allocator).error());
  }
  made->allocator_ = std::move(*allocator);
  open_arenas::add(*made);
  return made;
}

arena_state::arena_state(std::unique_ptr<code_memory> memory, code_index index, std::unique_ptr<code_listing> listing)
    : memory_{std::move(memory)}, listing_{std::move(listing)}, index_{std::move(index)} {}

arena_state::~arena_state() { open_arenas::remove(*this); }

auto arena_state::refuse(std::string_view operation) const -> std::unexpected<error> {
  auto const now = state_.load(std::memory_order_acquire);
  return fail(now == state::sealed ? errc::sealed : now == state::forked ? errc::forked : errc::closed, operation);
}

// Nobody else uses the arena then.
auto arena_state::close() -> result<void> {
  open_arenas::remove(*this);
  auto open = state::forked; // a child's copy stays one
  if (!state_.compare_exchange_strong(open, state::forked) && state_.exchange(state::closed) == state::closed) {
    return fail(errc::closed, "close");
  }
  listing_.reset();
  auto const released = memory_->release();
  return released ? result<void>{} : fail(released.error(), "close");
}

// --- As the space of an allocator -------------------------------------------------------------------------------------------

auto arena_state::grow_to(std::size_t size) -> result<void> {
  auto const grown = memory_->grow_to(size);
  return grown ? result<void>{} : fail(grown.error(), "make room for code");
}

// What is free keeps its memory, which is full of traps.
auto arena_state::provide(std::size_t /*offset*/, std::size_t /*length*/) -> result<void> { return {}; }
auto arena_state::withdraw(std::size_t /*offset*/, std::size_t /*length*/) -> result<void> { return {}; }

// --- Functions --------------------------------------------------------------------------------------------------------------

auto arena_state::allocate(std::size_t size, std::size_t alignment, bool is_owned) -> result<code_span> {
  constexpr std::string_view operation = "allocate code";
  if (state_.load(std::memory_order_acquire) != state::open) [[unlikely]] {
    return refuse(operation);
  }
  if (size == 0 || size > code_index::largest) {
    return fail(errc::invalid_options, operation, "a function has between 1 byte and 256 MiB");
  }
  if (!std::has_single_bit(alignment) || alignment > largest_alignment) {
    return fail(errc::invalid_options, operation, "alignments are powers of two up to 4096");
  }
  auto const aligned = std::max(alignment, line);
  auto offset = allocator_->allocate(in_lines(size), aligned);
  if (!offset && offset.error() == errc::reservation_exceeded) {
    if (auto const reclaimed = reclaim(); reclaimed && *reclaimed > 0) {
      allocator_->flush_magazines();
      offset = allocator_->allocate(in_lines(size), aligned);
    }
  }
  if (!offset) {
    return std::unexpected(std::move(offset).error());
  }
  if (aligned > line || is_owned) {
    std::scoped_lock const lock{mutex_};
    try {
      if (is_owned) {
        owned_.insert(*offset);
        keep_room_for_owned(0);
      }
      if (aligned > line) {
        alignments_.emplace(*offset, aligned);
      }
    } catch (std::bad_alloc const&) {
      owned_.erase(*offset);
      allocator_->deallocate(*offset, in_lines(size), aligned);
      return fail(ENOMEM, operation);
    }
  }
  index_.add(*offset, size);
  return span_of(*offset, size);
}

void arena_state::deallocate(std::size_t offset, std::size_t size) noexcept {
  auto aligned = line;
  if (auto const found = alignments_.find(offset); found != alignments_.end()) [[unlikely]] {
    aligned = found->second;
    alignments_.erase(found);
  }
  if (listing_) {
    listing_->remove(memory_->base() + offset);
  }
  index_.remove(offset);
  allocator_->deallocate(offset, in_lines(size), aligned);
}

auto arena_state::write(code_span to, std::span<std::byte const> code, std::string_view name) -> result<void> {
  constexpr std::string_view operation = "write code";
  auto const open = lock_open();
  if (!open) {
    return refuse(operation);
  }
  auto const found = in_use(to);
  if (found.kind == code_index::kind::none) {
    return fail(errc::not_allocated, operation);
  }
  if (found.kind == code_index::kind::published) {
    return fail(errc::already_published, operation);
  }
  if (code.size() > found.size) {
    return fail(errc::out_of_range, operation,
                std::to_string(code.size()) + " bytes do not fit into " + std::to_string(found.size));
  }
  try {
    if (listing_) {
      listing_->name(to.address(), name);
    }
    if (memory_->gathers()) {
      stage(found, code);
      return {};
    }
    auto const done = write_in_place(found, code);
    return done ? result<void>{} : fail(done.error(), operation);
  } catch (std::bad_alloc const&) {
    return fail(ENOMEM, operation);
  }
}

void arena_state::add_pending(code_index::entry const& to, std::size_t position) {
  auto const place = static_cast<std::uint32_t>(pending_.size());
  pending_.push_back({.offset = static_cast<std::uint32_t>(to.offset),
                      .size = static_cast<std::uint32_t>(in_lines(to.size)),
                      .position = static_cast<std::uint32_t>(position)});
  index_.place(to.offset) = place;
  index_.set(to.offset, code_index::kind::written);
}

void arena_state::stage(code_index::entry const& to, std::span<std::byte const> code) {
  auto const size = in_lines(to.size);
  auto position = staged_end_;
  if (to.kind == code_index::kind::written) {
    position = pending_[index_.place(to.offset)].position;
  } else {
    if (staged_.size() - staged_end_ < size) {
      staged_.resize((2 * staged_.size()) + size);
    }
    add_pending(to, position);
    staged_end_ += size;
  }
  auto* const room = staged_.data() + position;
  std::ranges::copy(code, room);
  std::memset(room + code.size(), std::to_integer<int>(machine::trap), size - code.size());
}

// Nobody executes what is not published. Behind the code there are traps already, unless other code was written there before.
auto arena_state::write_in_place(code_index::entry const& to, std::span<std::byte const> code) -> os::outcome<void> {
  if (to.kind == code_index::kind::written) {
    if (auto done = memory_->fill_with_traps(to.offset, in_lines(to.size)); !done) {
      return done;
    }
  } else {
    add_pending(to, 0);
  }
  return memory_->put(to.offset, code);
}

auto arena_state::publish() -> result<void> {
  auto const open = lock_open();
  return open ? publish_locked() : refuse("publish code");
}

auto arena_state::publish_locked() -> result<void> {
  if (std::exchange(have_some_been_given_up_, false)) {
    std::erase_if(pending_, [](pending const& one) { return one.size == 0; });
  }
  if (pending_.empty() && !is_changed_) {
    return {};
  }
  auto done = os::outcome<void>{};
  put_ = 0;
  try {
    list_pending();
    done = memory_->gathers() ? put_pending() : done;
  } catch (std::bad_alloc const&) {
    done = std::unexpected(ENOMEM);
  }
  done = done ? code_barrier() : done;
  if (!done) {
    note_failure();
    return fail(done.error(), "publish code");
  }
  for (auto const& one : pending_) {
    index_.set(one.offset, code_index::kind::published);
  }
  functions_ += pending_.size();
  pending_.clear();
  staged_end_ = 0;
  if (staged_.size() > most_kept) {
    staged_ = {};
    run_ = {};
  }
  is_changed_ = false;
  ++publishes_;
  if (listing_) {
    listing_->tell();
  }
  return {};
}

void arena_state::list_pending() {
  if (!listing_) {
    return;
  }
  listing_->discard(); // of a call that failed
  for (auto const& one : pending_) {
    listing_->add(memory_->base() + one.offset, index_.find(one.offset).size);
  }
}

// The batch may have another order, and some of it may be in place.
void arena_state::note_failure() noexcept {
  for (std::uint32_t place = 0; place < pending_.size(); ++place) {
    index_.place(pending_[place].offset) = place;
    pending_[place].may_be_in_place = pending_[place].may_be_in_place || place < put_;
  }
}

// Functions side by side at once, without another copy where they were also written in that order.
auto arena_state::put_pending() -> os::outcome<void> {
  if (!std::ranges::is_sorted(pending_, {}, &pending::offset)) {
    std::ranges::sort(pending_, {}, &pending::offset);
  }
  for (std::span<pending const> rest{pending_}; !rest.empty();) {
    auto const& first = rest.front();
    auto const is_staged_so = [&](pending const& one) {
      return one.offset - first.offset == one.position - first.position;
    };
    std::size_t count = 0;
    std::size_t length = 0;
    auto in_order = true;
    for (; count < rest.size() && rest[count].offset == first.offset + length; ++count) {
      length += rest[count].size;
      in_order = in_order && is_staged_so(rest[count]);
    }
    auto done = os::outcome<void>{};
    if (in_order) {
      done = memory_->put(first.offset, std::span{staged_}.subspan(first.position, length));
    } else {
      run_.resize(length);
      for (auto const& one : rest.first(count)) {
        std::memcpy(run_.data() + (one.offset - first.offset), staged_.data() + one.position, one.size);
      }
      done = memory_->put(first.offset, run_);
    }
    if (!done) {
      put_ += memory_->may_put_a_part() ? count : 0;
      return done;
    }
    put_ += count;
    rest = rest.subspan(count);
  }
  return {};
}

auto arena_state::change(code_span published, std::size_t offset, std::span<std::byte const> bytes) -> result<void> {
  constexpr std::string_view operation = "change code";
  auto const open = lock_open();
  if (!open) {
    return refuse(operation);
  }
  auto const found = in_use(published);
  if (found.kind == code_index::kind::none) {
    return fail(errc::not_allocated, operation);
  }
  is_changed_ = true;
  auto const done = memory_->put(found.offset + offset, bytes);
  return done ? result<void>{} : fail(done.error(), operation);
}

// So that an owner can retire what it has whatever happens, after so many others.
void arena_state::keep_room_for_owned(std::size_t others) {
  if (auto const wanted = waiting_.size() + owned_.size() + others; wanted > waiting_.capacity()) {
    waiting_.reserve(std::max(wanted, 2 * waiting_.capacity()));
  }
}

auto arena_state::retire(code_span function, bool by_owner) -> result<void> {
  constexpr std::string_view operation = "retire code";
  auto const open = lock_open();
  if (!open) {
    return refuse(operation);
  }
  auto const found = in_use(function);
  if (found.kind == code_index::kind::none) {
    return fail(errc::not_allocated, operation);
  }
  auto* const in_batch = found.kind == code_index::kind::written ? &pending_[index_.place(found.offset)] : nullptr;
  auto const may_be_in_place = found.kind == code_index::kind::published || !memory_->gathers() ||
                               (in_batch != nullptr && in_batch->may_be_in_place);
  if (owned_.contains(found.offset) != by_owner) {
    return fail(errc::in_use, operation, "it goes with the object of the exec_resource that has it");
  }
  try {
    keep_room_for_owned(by_owner ? 0 : 1);
    waiting_.push_back({.generation = guards_.generation(),
                        .offset = static_cast<std::uint32_t>(found.offset),
                        .size = static_cast<std::uint32_t>(found.size),
                        .is_trapped = !may_be_in_place});
  } catch (std::bad_alloc const&) {
    return fail(ENOMEM, operation);
  }
  owned_.erase(found.offset);
  if (found.kind == code_index::kind::published) {
    --functions_;
  } else {
    if (in_batch != nullptr) {
      in_batch->size = 0;
      have_some_been_given_up_ = true;
    }
    if (listing_) {
      listing_->remove_name(function.address());
    }
  }
  index_.set(found.offset, code_index::kind::retired);
  if (waiting_.size() % reclaimed_at_once == 0) {
    (void)reclaim_locked(); // what fails is tried again
  }
  return {};
}

auto arena_state::reclaim() -> result<std::size_t> {
  auto const open = lock_open();
  return open ? reclaim_locked() : refuse("reclaim code");
}

auto arena_state::reclaim_locked() -> result<std::size_t> {
  guards_.advance();
  auto const end =
      std::ranges::find_if(waiting_, [&](waiting const& one) { return !guards_.have_ended(one.generation); });
  std::span const can_go{waiting_.begin(), end};
  std::size_t reclaimed = 0;
  auto const filled = fill_retired(can_go, reclaimed);
  if (reclaimed > 0) {
    // Nobody is to execute what he has prefetched, of the old code or of the traps, when there is new code.
    if (auto const done = code_barrier(); !done) {
      return fail(done.error(), "reclaim code");
    }
  }
  // The last to be given back is the first to be allocated again: in this order functions that are written one after the other
  // lie side by side.
  for (auto const& one : can_go.first(reclaimed) | std::views::reverse) {
    deallocate(one.offset, one.size);
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(reclaimed));
  return filled ? result<std::size_t>{reclaimed} : fail(filled.error(), "reclaim code");
}

// Tells how many of the first it has filled with traps; those side by side at once.
auto arena_state::fill_retired(std::span<waiting> retired, std::size_t& filled) -> os::outcome<void> {
  if (memory_->gathers()) {
    std::ranges::sort(retired, {}, &waiting::offset);
  }
  while (filled < retired.size()) {
    if (retired[filled].is_trapped) {
      ++filled;
      continue;
    }
    auto const offset = retired[filled].offset;
    auto end = std::size_t{offset};
    auto next = filled;
    for (; next < retired.size() && retired[next].offset == end && !retired[next].is_trapped; ++next) {
      end += in_lines(retired[next].size);
    }
    if (auto done = memory_->fill_with_traps(offset, end - offset); !done) {
      return done;
    }
    filled = next;
  }
  return {};
}

auto arena_state::find(void const* address) const noexcept -> std::optional<code_span> {
  auto const offset = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(memory_->base());
  if (state_.load(std::memory_order_acquire) == state::closed || offset >= memory_->reserve()) {
    return {};
  }
  auto const found = index_.find(offset);
  auto const is_code = found.kind == code_index::kind::published || found.kind == code_index::kind::retired;
  return is_code ? std::optional{span_of(found.offset, found.size)} : std::nullopt;
}

auto arena_state::seal() -> result<void> {
  auto const open = lock_open();
  if (!open) {
    return refuse("seal code");
  }
  if (auto done = publish_locked(); !done) {
    return done;
  }
  if (auto const done = memory_->seal(); !done) {
    return fail(done.error(), "seal code");
  }
  state_.store(state::sealed, std::memory_order_release);
  return {};
}

auto arena_state::stats() const -> code_stats {
  if (auto const now = state_.load(); now == state::closed || now == state::forked) {
    return {};
  }
  auto const use = allocator_->in_use();
  std::scoped_lock const lock{mutex_};
  auto const reserve = memory_->reserve();
  auto const grown = use.used + use.free;
  auto const [used, free_at_end, longest_free] = index_.usage_up_to(grown);
  return {.used_bytes = used,
          .free_bytes = reserve - used,
          .largest_free = std::max(longest_free, free_at_end + (reserve - grown)),
          .reserved_bytes = reserve,
          .peak_bytes = use.peak,
          .functions = functions_,
          .retired = waiting_.size(),
          .publishes = publishes_};
}

} // namespace fmmap
