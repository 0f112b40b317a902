// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
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

module fmmap.alloc;

import fmmap.core;
import fmmap.os;

namespace fmmap::alloc {

namespace {

constinit std::atomic<std::uint64_t> latest_number{0};

auto next_number() noexcept -> std::uint64_t { return latest_number.fetch_add(1, std::memory_order_relaxed) + 1; }

constinit thread_local magazines* of_this_thread = nullptr;
constinit thread_local bool thread_has_ended = false;

void unlink_from_owner(magazines& which) noexcept {
  *which.link_of_owner = which.next_of_owner;
  if (which.next_of_owner != nullptr) {
    which.next_of_owner->link_of_owner = which.link_of_owner;
  }
}

} // namespace

// All allocators of the process, and with them all magazines: what threads, allocators and forks do to each other's passes
// here. Its lock comes before theirs. Hidden, as `os::at_fork` wants it.
class [[gnu::visibility("hidden")]] registry {
public:
  [[nodiscard]] static auto add(allocator& one) noexcept -> int {
    std::scoped_lock const lock{all};
    one.next_ = std::exchange(first, &one);
    one.link_ = &first;
    if (one.next_ != nullptr) {
      one.next_->link_ = &one.next_;
    }
    return failed_to_watch;
  }

  static void remove(allocator& one) noexcept {
    std::scoped_lock const lock{all};
    *one.link_ = one.next_;
    if (one.next_ != nullptr) {
      one.next_->link_ = one.link_;
    }
    for (auto* cache = one.caches_; cache != nullptr;) {
      unlink_from_owner(*cache);
      delete std::exchange(cache, cache->next_of_allocator);
    }
  }

  // The calling thread's, made where there are none; null where there cannot be.
  static auto find_or_make(allocator& of) noexcept -> magazines* {
    static thread_local end_of_thread const watch;
    std::scoped_lock const lock{all};
    for (auto* cache = of.caches_; cache != nullptr; cache = cache->next_of_allocator) {
      if (cache->owner == &of_this_thread) {
        return cache;
      }
    }
    auto* const made = new (std::nothrow) magazines;
    if (made == nullptr) {
      return nullptr;
    }
    made->of = &of;
    made->owner = &of_this_thread;
    made->next_of_allocator = std::exchange(of.caches_, made);
    made->link_of_owner = &of_this_thread;
    made->next_of_owner = std::exchange(of_this_thread, made);
    if (made->next_of_owner != nullptr) {
      made->next_of_owner->link_of_owner = &made->next_of_owner;
    }
    return made;
  }

  // While it is held, no thread ends: one that does hands its magazines back, whoever has exclusive use.
  using no_end = std::unique_lock<std::mutex>;
  [[nodiscard]] static auto keep_threads() -> no_end { return no_end{all}; }

  template <class Do>
  static void for_magazines(no_end const& /*kept*/, allocator const& of, Do use) {
    for (auto* cache = of.caches_; cache != nullptr; cache = cache->next_of_allocator) {
      use(*cache);
    }
  }

private:
  // What objects of the thread that are destroyed later deallocate goes back without magazines.
  struct end_of_thread {
    ~end_of_thread() {
      std::scoped_lock const lock{all};
      thread_has_ended = true;
      known = {};
      for (auto* cache = of_this_thread; cache != nullptr;) {
        auto* const next = cache->next_of_owner;
        cache->of->hand_back(*cache);
        forget(*cache);
        cache = next;
      }
      of_this_thread = nullptr;
    }
  };

  static void forget(magazines& cache) noexcept {
    auto** link = &cache.of->caches_;
    while (*link != &cache) {
      link = &(*link)->next_of_allocator;
    }
    *link = cache.next_of_allocator;
    delete &cache;
  }

  template <class Do>
  static void for_all(Do use) {
    for (auto* one = first; one != nullptr; one = one->next_) {
      use(*one);
    }
  }

  // Registered before the program begins: a fork during a registration would leave the child with one half done.
  static auto watch_forks() noexcept -> int {
    return os::at_fork(
        +[] {
          all.lock();
          for_all([](allocator& one) { one.lock_all(); });
        },
        +[] {
          for_all([](allocator& one) { one.unlock_all(); });
          all.unlock();
        },
        +[] {
          for_all([](allocator& one) {
            one.unlock_all();
            one.go_on_in_child();
          });
          all.unlock();
        });
  }

  static constinit std::mutex all;
  static constinit allocator* first;
  static int const failed_to_watch;
};

constinit std::mutex registry::all;
constinit allocator* registry::first = nullptr;
int const registry::failed_to_watch = registry::watch_forks();

// --- Beginning and end ------------------------------------------------------------------------------------------------

allocator::allocator(space& from, alloc::options const& options, books made)
    : number_{next_number()},
      limit_{options.limit / page_bytes * page_bytes},
      space_{from},
      options_{options},
      live_{options.checked || debug_build ? std::make_unique<live_objects>() : nullptr},
      books_{std::move(made)} {}

auto allocator::make(space& from, alloc::options const& options) -> result<std::unique_ptr<allocator>> {
  auto made = books::make(options.limit / page_bytes);
  if (!made) {
    return std::unexpected(std::move(made).error());
  }
  if (auto const extended = made->extend(options.size / page_bytes, options.is_provided); !extended) {
    return std::unexpected(extended.error());
  }
  std::unique_ptr<allocator> one{new allocator{from, options, std::move(*made)}};
  if (auto const failed = registry::add(*one); failed != 0) {
    return std::unexpected(error::make({failed, std::system_category()}, "watch forks of", options.path));
  }
  return one;
}

allocator::~allocator() { registry::remove(*this); }

auto allocator::fail(errc code, std::size_t size, std::string_view hint) const -> std::unexpected<error> {
  auto sentence = std::to_string(size) + " bytes were asked for";
  if (!hint.empty()) {
    sentence.append(", and ").append(hint);
  }
  return std::unexpected(error::make(code, "allocate from", options_.path, {}, sentence));
}

void allocator::lock_all() noexcept {
  for (auto& one : classes_) {
    one.mutex.lock();
  }
  pages_mutex_.lock();
  if (live_) {
    live_->lock();
  }
}

void allocator::unlock_all() noexcept {
  if (live_) {
    live_->unlock();
  }
  pages_mutex_.unlock();
  for (auto& one : classes_) {
    one.mutex.unlock();
  }
}

// The child has one thread, and what others had in their magazines is nobody's.
void allocator::go_on_in_child() noexcept {
  magazines* kept = nullptr;
  for (auto* cache = std::exchange(caches_, nullptr); cache != nullptr;) {
    auto* const next = cache->next_of_allocator;
    if (cache->owner == &of_this_thread) {
      cache->next_of_allocator = nullptr;
      kept = cache;
    } else {
      if (!options_.shared_with_children) {
        hand_back(*cache);
      }
      delete cache;
    }
    cache = next;
  }
  caches_ = kept;
  if (options_.shared_with_children) {
    refuse(errc::forked);
  }
}

// --- Magazines --------------------------------------------------------------------------------------------------------

auto allocator::magazines_of_this_thread() noexcept -> magazines* {
  auto& slot = known[number_ % known_count];
  if (slot.allocator == number_) {
    return slot.of_it;
  }
  if (thread_has_ended) {
    return nullptr;
  }
  auto* const found = registry::find_or_make(*this);
  if (found != nullptr) {
    slot = {.allocator = number_, .of_it = found};
  }
  return found;
}

// Hands the `count` blocks back that a magazine has had longest. The lock is held until the magazine is right again, for the
// sake of forks.
void allocator::spill(magazines& from, unsigned size_class, std::size_t count) noexcept {
  std::scoped_lock const lock{classes_[size_class].mutex};
  auto& there = from.counts[size_class];
  std::span const blocks{from.slots.data() + magazine_begins[size_class], there.load(std::memory_order_relaxed)};
  count = std::min(count, blocks.size());
  give_back(size_class, blocks.first(count));
  std::ranges::copy(blocks.subspan(count), blocks.begin());
  there.store(static_cast<std::uint32_t>(blocks.size() - count), std::memory_order_release);
}

void allocator::hand_back(magazines& from) noexcept {
  for (unsigned c = 0; c < class_count; ++c) {
    if (from.counts[c].load(std::memory_order_relaxed) > 0) {
      spill(from, c, nowhere);
    }
  }
}

void allocator::flush_magazines() noexcept {
  if (auto* const mine = magazines_of_this_thread(); mine != nullptr) {
    hand_back(*mine);
  }
}

void allocator::give_back(unsigned size_class, std::span<std::size_t const> blocks) noexcept {
  for (auto const offset : blocks) {
    auto const [what, slab] = books_.give_back_block(offset, size_class);
    if (what == books::verdict::not_a_block || what == books::verdict::free_already) [[unlikely]] {
      misuse(at(offset), class_size(size_class), granule,
             what == books::verdict::free_already ? "deallocated twice, as of this block of its size class"
                                                  : "no block of this size class begins there");
    }
    if (what == books::verdict::slab_is_empty && classes_[size_class].pages > slab.count) {
      release_slab(slab, size_class);
    }
  }
}

void allocator::release_slab(page_run slab, unsigned size_class) noexcept {
  books_.unmake_slab(slab, size_class);
  classes_[size_class].pages -= slab.count;
  std::scoped_lock const lock{pages_mutex_};
  books_.give_back(slab, false);
}

void allocator::release_empty_slabs() noexcept {
  for (unsigned c = 0; c < class_count; ++c) {
    std::scoped_lock const lock{classes_[c].mutex};
    for (auto slab = books_.next_slab(c, 0); slab != nowhere; slab = books_.next_slab(c, slab + 1)) {
      if (books_.is_empty(slab)) {
        release_slab({.first = slab, .count = books_.entry(slab).pages}, c);
      }
    }
  }
}

// --- Allocating -------------------------------------------------------------------------------------------------------

auto allocator::allocate_slowly(std::size_t size, std::size_t alignment, unsigned size_class) -> result<std::size_t> {
  if (refusal_) {
    return fail(*refusal_, size);
  }
  if (size > limit_) {
    return fail(errc::reservation_exceeded, size, std::to_string(limit_) + " are reserved in all");
  }
  if (size_class < class_count) {
    return allocate_block(size_class);
  }
  auto const pages = std::max<std::size_t>((size + page_bytes - 1) / page_bytes, 1);
  auto first = allocate_run(pages, alignment);
  if (!first && is_want_of_space(first.error())) {
    flush_magazines();
    release_empty_slabs();
    first = allocate_run(pages, alignment);
  }
  return first;
}

auto allocator::allocate_block(unsigned size_class) -> result<std::size_t> {
  auto* const mine = magazines_of_this_thread();
  std::array<std::size_t, magazine_size(0)> blocks;
  if (mine == nullptr) {
    auto const got = refill(size_class, std::span{blocks}.first(1));
    return got ? result<std::size_t>{blocks[0]} : std::unexpected(got.error());
  }
  auto& count = mine->counts[size_class];
  auto* const slots = mine->slots.data() + magazine_begins[size_class];
  if (auto const left = count.load(std::memory_order_relaxed); left > 0) { // the thread knew too many allocators
    count.store(left - 1, std::memory_order_release);
    return slots[left - 1];
  }
  auto const wanted = std::span{blocks}.first(magazine_sizes[size_class] / 2);
  auto got = refill(size_class, wanted);
  if (!got && is_want_of_space(got.error())) {
    hand_back(*mine);
    release_empty_slabs();
    got = refill(size_class, wanted.first(1));
  }
  if (!got) {
    return std::unexpected(std::move(got).error());
  }
  // The lowest goes first, so that what is allocated one after the other lies so.
  std::ranges::reverse_copy(wanted.subspan(1, *got - 1), slots);
  count.store(static_cast<std::uint32_t>(*got - 1), std::memory_order_release);
  return blocks[0];
}

// Takes free blocks of a class, one at least and as many as there is room for in `out` where slabs have them.
auto allocator::refill(unsigned size_class, std::span<std::size_t> out) -> result<std::size_t> {
  auto& about = classes_[size_class];
  std::scoped_lock const lock{about.mutex};
  std::size_t taken = 0;
  while (taken < out.size()) {
    auto const slab = books_.find_slab(size_class);
    if (slab == nowhere) {
      break;
    }
    taken += books_.take_blocks(slab, out.subspan(taken));
  }
  if (taken > 0) {
    return taken;
  }
  // The more there are, the longer: a small space has a few pages for every class.
  auto const good = about.pages < 4 ? std::size_t{1} : about.pages < 32 ? std::size_t{4} : largest_slab;
  auto run = take_run(slab_pages(size_class, good), page_bytes);
  if (!run && is_want_of_space(run.error())) {
    run = take_run(slab_pages(size_class, 1), page_bytes);
  }
  if (!run) {
    return std::unexpected(std::move(run).error());
  }
  books_.make_slab(*run, size_class);
  about.pages += run->count;
  return books_.take_blocks(run->first, out);
}

auto allocator::allocate_run(std::size_t pages, std::size_t alignment) -> result<std::size_t> {
  auto const run = take_run(pages, alignment);
  return run ? result<std::size_t>{run->first * page_bytes} : std::unexpected(run.error());
}

auto allocator::take_run(std::size_t pages, std::size_t alignment) -> result<page_run> {
  auto const unit = std::max<std::size_t>(alignment / page_bytes, 1);
  auto const origin = reinterpret_cast<std::uintptr_t>(options_.origin) / page_bytes % unit;
  auto const padded = pages + unit - 1;
  auto const find = [&]() -> std::size_t {
    if (auto const roomy = books_.find_run(padded); roomy != nowhere) {
      return ((roomy + origin + unit - 1) / unit * unit) - origin;
    }
    return unit == 1 ? nowhere : books_.scan_for_run(pages, unit, origin, false);
  };

  std::unique_lock lock{pages_mutex_};
  auto first = find();
  if (first == nowhere) {
    if (auto grown = grow_for(pages, unit, origin); !grown) {
      return std::unexpected(std::move(grown).error());
    }
    first = find();
  }
  page_run const run{.first = first, .count = pages};
  auto const bare = books_.take(run);
  auto const count_use = [&] { peak_ = std::max(peak_, books_.page_count() - books_.free_count()); };
  count_use();
  if (bare.count == 0) {
    return run;
  }
  lock.unlock();
  auto provided = space_.provide(bare.first * page_bytes, bare.count * page_bytes);
  if (provided) {
    return run;
  }
  // No memory for these pages; others may have kept theirs.
  lock.lock();
  auto const give_back_part = [&](std::size_t begin, std::size_t end, bool is_bare) {
    if (begin < end) {
      books_.give_back({.first = begin, .count = end - begin}, is_bare);
    }
  };
  give_back_part(run.first, bare.first, false);
  give_back_part(bare.first, bare.first + bare.count, true);
  give_back_part(bare.first + bare.count, run.first + run.count, false);
  first = is_want_of_space(provided.error()) ? books_.scan_for_run(pages, unit, origin, true) : nowhere;
  if (first == nowhere) {
    return std::unexpected(std::move(provided).error());
  }
  (void)books_.take({.first = first, .count = pages});
  count_use();
  return page_run{.first = first, .count = pages};
}

// Makes the space long enough for a run of pages at its end, and longer the longer it is: at least by 1 MiB, at most by 64.
auto allocator::grow_for(std::size_t pages, std::size_t unit, std::size_t origin) -> result<void> {
  constexpr std::size_t least_step = 256;
  constexpr std::size_t longest_step = 16384;
  auto const there = books_.page_count();
  auto const limit = limit_ / page_bytes;
  auto const first = ((there - books_.free_at_end() + origin + unit - 1) / unit * unit) - origin;
  if (first > limit || pages > limit - first) {
    return fail(errc::reservation_exceeded, pages * page_bytes, std::to_string(limit_) + " are reserved in all");
  }
  auto const needed = first + pages - there;
  auto const step = std::max(needed, std::clamp(there / 4, least_step, longest_step));
  auto const wanted = std::min(limit, (there + step + group_pages - 1) / group_pages * group_pages);
  auto const size = space_.grow((there + needed) * page_bytes, wanted * page_bytes);
  if (!size) {
    return std::unexpected(size.error());
  }
  return books_.extend(*size / page_bytes);
}

// --- Deallocating -----------------------------------------------------------------------------------------------------

void allocator::check_deallocated(std::size_t offset, std::size_t size, std::size_t alignment) {
  live_->remove(offset, {.size = size, .alignment = alignment}, at(offset));
}

void allocator::deallocate_slowly(std::size_t offset, std::size_t size, std::size_t alignment,
                                  unsigned size_class) noexcept {
  if (refusal_) {
    return;
  }
  if (offset >= limit_ || size > limit_ - offset) {
    misuse(at(offset), size, alignment, "no object of this resource lies there");
  }
  if (size_class == class_count) {
    auto const pages = std::max<std::size_t>((size + page_bytes - 1) / page_bytes, 1);
    if (offset % page_bytes != 0) {
      misuse(at(offset), size, alignment, "no object of this size begins there");
    }
    free_run({.first = offset / page_bytes, .count = pages});
    return;
  }
  auto* const mine = magazines_of_this_thread();
  if (mine == nullptr) {
    std::scoped_lock const lock{classes_[size_class].mutex};
    give_back(size_class, {&offset, 1});
    return;
  }
  auto const full = magazine_sizes[size_class];
  auto& there = mine->counts[size_class];
  if (there.load(std::memory_order_relaxed) == full) {
    spill(*mine, size_class, full / 2);
  }
  auto const count = there.load(std::memory_order_relaxed);
  mine->slots[magazine_begins[size_class] + count] = offset;
  there.store(count + 1, std::memory_order_release);
}

void allocator::free_run(page_run run) noexcept {
  {
    std::scoped_lock const lock{pages_mutex_};
    auto const last = run.first + run.count - 1;
    if (last >= books_.page_count() || books_.is_free(run.first) || books_.is_free(last)) {
      misuse(at(run.first * page_bytes), run.count * page_bytes, page_bytes,
             "no object of so many pages is allocated there");
    }
  }
  auto const length = run.count * page_bytes;
  auto bare = false;
  if (length >= options_.withdraw_from) {
    auto const withdrawn = space_.withdraw(run.first * page_bytes, length);
    bare = withdrawn.has_value();
    if (!bare) {
      report_dropped_error(withdrawn.error());
    }
  }
  std::scoped_lock const lock{pages_mutex_};
  books_.give_back(run, bare);
}

auto allocator::begin_trim() -> result<void> {
  if (refusal_) { // the pages are not these books' any more
    return std::unexpected(error::make(*refusal_, "trim", options_.path));
  }
  flush_magazines();
  release_empty_slabs();
  return {};
}

// While it is withdrawn nobody waits, but they do without these pages meanwhile.
auto allocator::withdraw_free(page_run run, std::unique_lock<mutex>& lock) -> result<void> {
  auto const was_bare = books_.take(run).count > 0;
  lock.unlock();
  auto done = space_.withdraw(run.first * page_bytes, run.count * page_bytes);
  lock.lock();
  books_.give_back(run, done || was_bare);
  return done;
}

namespace {

constexpr std::size_t longest_withdrawn = 16384; // pages: a hole costs some file systems milliseconds

} // namespace

auto allocator::trim() -> result<std::size_t> {
  if (auto begun = begin_trim(); !begun) {
    return std::unexpected(std::move(begun).error());
  }
  std::size_t withdrawn = 0;
  std::unique_lock lock{pages_mutex_};
  for (auto run = books_.next_run(0, true); run.count > 0; run = books_.next_run(run.first + run.count, true)) {
    run.count = std::min(run.count, longest_withdrawn);
    if (auto done = withdraw_free(run, lock); !done) {
      return std::unexpected(std::move(done).error());
    }
    withdrawn += run.count * page_bytes;
  }
  return withdrawn;
}

auto allocator::trim_chunks(std::function<bool(std::size_t chunk)> const& may_go) -> result<std::size_t> {
  if (auto begun = begin_trim(); !begun) {
    return std::unexpected(std::move(begun).error());
  }
  constexpr auto longest = longest_withdrawn / chunk_pages;
  std::size_t withdrawn = 0;
  std::unique_lock lock{pages_mutex_};
  for (auto run = books_.next_run(0, false); run.count > 0; run = books_.next_run(run.first + run.count, false)) {
    auto const end = (run.first + run.count) / chunk_pages;
    for (auto chunk = (run.first + chunk_pages - 1) / chunk_pages; chunk < end;) {
      std::size_t count = 0;
      while (count < longest && chunk + count < end && may_go(chunk + count)) {
        ++count;
      }
      if (count > 0) {
        if (auto done = withdraw_free({.first = chunk * chunk_pages, .count = count * chunk_pages}, lock); !done) {
          return std::unexpected(std::move(done).error());
        }
        withdrawn += count * chunk_bytes;
      }
      chunk += std::max<std::size_t>(count, 1);
    }
  }
  return withdrawn;
}

void allocator::clear() noexcept {
  if (refusal_) {
    return;
  }
  auto const kept = registry::keep_threads();
  registry::for_magazines(kept, *this, [](magazines& each) {
    for (auto& count : each.counts) {
      count.store(0, std::memory_order_relaxed);
    }
  });
  for (auto& each : classes_) {
    each.pages = 0;
  }
  books_.clear();
  if (live_) {
    live_->clear();
  }
}

void allocator::refuse(errc why) noexcept {
  refusal_ = why;
  number_ = next_number(); // no thread finds its magazines any more
}

auto allocator::in_use() const -> usage {
  std::scoped_lock const lock{pages_mutex_};
  auto const free = books_.free_count();
  return {.used = (books_.page_count() - free) * page_bytes,
          .free = free * page_bytes,
          .backed_free = books_.backed_free_count() * page_bytes,
          .longest_free = books_.longest_free() * page_bytes,
          .peak = peak_ * page_bytes};
}

// --- State ------------------------------------------------------------------------------------------------------------

namespace {

constexpr auto words_per_chunk = chunk_pages * words_per_page;

void mark_free(chunk_state& state, std::size_t chunk, books::bit block) {
  state.free_blocks[block.word - (chunk * words_per_chunk)] |= block.mask;
}

} // namespace

// By word.
auto allocator::blocks_in_magazines(std::unique_lock<std::mutex> const& kept) const -> std::vector<books::bit> {
  std::vector<books::bit> blocks;
  registry::for_magazines(kept, *this, [&](magazines const& each) {
    for (unsigned c = 0; c < class_count; ++c) {
      auto const* const begin = each.slots.data() + magazine_begins[c];
      std::ranges::transform(begin, begin + each.counts[c].load(std::memory_order_relaxed), std::back_inserter(blocks),
                             [&](std::size_t offset) { return books_.bit_of(offset); });
    }
  });
  std::ranges::sort(blocks, {}, &books::bit::word);
  return blocks;
}

auto allocator::plain_state_of(std::size_t chunk) const -> chunk_state {
  chunk_state state;
  auto const first = chunk * chunk_pages;
  for (std::size_t i = 0; i < chunk_pages && first + i < books_.page_count(); ++i) {
    auto const& entry = books_.entry(first + i);
    auto& page = state.pages[i];
    switch (entry.kind) {
    case page_kind::plain:
      page = books_.is_free(first + i) ? chunk_state::free : chunk_state::run;
      break;
    case page_kind::slab:
      page = static_cast<std::uint8_t>(chunk_state::first_slab_class + entry.size_class);
      break;
    case page_kind::slab_inside:
      page = chunk_state::slab_inside;
      break;
    }
    if (entry.kind != page_kind::plain) {
      for (std::size_t word = i * words_per_page; word < (i + 1) * words_per_page; ++word) {
        state.free_blocks[word] = books_.block_word((chunk * words_per_chunk) + word);
      }
    }
  }
  return state;
}

auto allocator::state_of(std::size_t chunk) const -> chunk_state {
  auto const kept = registry::keep_threads();
  auto state = plain_state_of(chunk);
  for (auto const& block : blocks_in_magazines(kept)) {
    if (block.word / words_per_chunk == chunk) {
      mark_free(state, chunk, block);
    }
  }
  return state;
}

auto allocator::is_live(std::size_t offset, std::size_t length) const -> bool {
  auto const kept = registry::keep_threads();
  if (!books_.is_used(offset, length)) {
    return false;
  }
  if (books_.entry(offset / page_bytes).kind == page_kind::plain) {
    return true;
  }
  auto const block = books_.bit_of(offset);
  return std::ranges::none_of(blocks_in_magazines(kept), [&](books::bit const& cached) {
    return cached.word == block.word && cached.mask == block.mask;
  });
}

auto allocator::is_object(std::size_t offset, std::size_t size, std::size_t alignment) const -> bool {
  if (!is_live(offset, std::max<std::size_t>(size, 1))) {
    return false;
  }
  auto const size_class = find_class(size, alignment);
  auto const page = offset / page_bytes;
  auto const& at = books_.entry(page);
  if (size_class == class_count) {
    return at.kind == page_kind::plain && offset % page_bytes == 0;
  }
  auto const first = at.kind == page_kind::slab_inside ? page - at.pages : page;
  auto const& slab = books_.entry(first);
  return slab.kind == page_kind::slab && slab.size_class == size_class &&
         (offset - (first * page_bytes)) % class_size(size_class) == 0;
}

auto allocator::live_bytes() const -> std::size_t {
  auto const kept = registry::keep_threads();
  auto live = books_.used_bytes();
  registry::for_magazines(kept, *this, [&](magazines const& each) {
    for (unsigned c = 0; c < class_count; ++c) {
      live -= each.counts[c].load(std::memory_order_relaxed) * class_size(c);
    }
  });
  return live;
}

void allocator::export_again(std::size_t chunk) noexcept {
  if (chunk * chunk_pages < books_.page_count()) {
    books_.mark_dirty({.first = chunk * chunk_pages, .count = 1});
  }
}

void allocator::export_dirty(std::function<void(std::size_t chunk, chunk_state const& state)> const& visit) {
  auto const kept = registry::keep_threads();
  auto const blocks = blocks_in_magazines(kept);
  std::vector<std::size_t> cached;
  for (auto const& block : blocks) {
    if (auto const chunk = block.word / words_per_chunk; cached.empty() || cached.back() != chunk) {
      cached.push_back(chunk);
    }
  }
  auto chunks = books_.take_dirty_chunks();
  chunks.insert(chunks.end(), cached.begin(), cached.end());
  chunks.insert(chunks.end(), exported_cached_.begin(), exported_cached_.end());
  std::ranges::sort(chunks);
  chunks.erase(std::ranges::unique(chunks).begin(), chunks.end());
  exported_cached_ = std::move(cached);

  auto block = blocks.begin();
  for (auto const chunk : chunks) {
    auto state = plain_state_of(chunk);
    for (; block != blocks.end() && block->word / words_per_chunk == chunk; ++block) {
      mark_free(state, chunk, *block);
    }
    visit(chunk, state);
  }
}

auto allocator::import(std::function<chunk_state(std::size_t chunk)> const& read) -> std::optional<std::size_t> {
  auto const count = books_.page_count();
  std::vector<std::uint8_t> pages(count);
  for (std::size_t chunk = 0; chunk * chunk_pages < count; ++chunk) {
    auto const state = read(chunk);
    auto const first = chunk * chunk_pages;
    auto const there = std::min(chunk_pages, count - first);
    std::ranges::copy_n(state.pages.begin(), static_cast<std::ptrdiff_t>(there),
                        pages.begin() + static_cast<std::ptrdiff_t>(first));
    for (std::size_t i = 0; i < there * words_per_page; ++i) {
      auto const in_slab = state.pages[i / words_per_page] >= chunk_state::slab_inside;
      books_.block_word((chunk * words_per_chunk) + i) = in_slab ? state.free_blocks[i] : 0;
    }
  }
  for (std::size_t at = 0; at < count;) {
    auto const kind = pages[at];
    auto const end_of = [&](auto belongs) {
      return static_cast<std::size_t>(
          std::find_if_not(pages.begin() + static_cast<std::ptrdiff_t>(at) + 1, pages.end(), belongs) - pages.begin());
    };
    if (kind == chunk_state::free) {
      ++at;
    } else if (kind == chunk_state::run) {
      auto const end = end_of([](std::uint8_t page) { return page == chunk_state::run; });
      (void)books_.take({.first = at, .count = end - at});
      at = end;
    } else {
      auto const size_class = static_cast<unsigned>(kind) - chunk_state::first_slab_class;
      auto const end = end_of([](std::uint8_t page) { return page == chunk_state::slab_inside; });
      page_run const slab{.first = at, .count = end - at};
      if (kind == chunk_state::slab_inside || size_class >= class_count || slab.count > largest_slab ||
          slab.count * page_bytes < class_size(size_class)) {
        return at / chunk_pages;
      }
      (void)books_.take(slab);
      books_.adopt_slab(slab, size_class);
      classes_[size_class].pages += slab.count;
      at = end;
    }
  }
  peak_ = count - books_.free_count();
  (void)books_.take_dirty_chunks();
  return {};
}

} // namespace fmmap::alloc
