// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <mimalloc.h>

module fmmap.pmr.mimalloc;

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

namespace fmmap {

namespace {

// Version 2.0.9 is 209, and 3.4.3 is 30403.
#if MI_MALLOC_VERSION < 209
#error "fmmap needs mimalloc 2.0.9 or newer, the first one with exclusive arenas"
#endif
#if MI_MALLOC_VERSION < 300 || (MI_MALLOC_VERSION >= 10000 && MI_MALLOC_VERSION < 30000)
constexpr bool is_version_2 = true;
#elif MI_MALLOC_VERSION < 320 || (MI_MALLOC_VERSION >= 10000 && MI_MALLOC_VERSION < 30200)
#error "fmmap knows mimalloc 2 from 2.0.9 on, and 3 from 3.2 on"
#else
constexpr bool is_version_2 = false;
#endif

// Version 3 keeps its books of an arena in that arena, and its heaps serve any thread. Those of version 2 do so under a lock,
// as explained at `heap_maker`.
constexpr bool books_in_arena = !is_version_2;
constexpr bool heaps_need_a_lock = is_version_2;

constexpr std::size_t mebibyte = std::size_t{1} << 20;

// What sizes are rounded to: a multiple of the segments of every version (2.0.9: 32 MiB).
constexpr std::size_t unit = 64 * mebibyte;

// Of addresses. Version 3.6 skips what comes before a multiple of 256 MiB, and then finds an arena too small.
constexpr std::size_t range_alignment = is_version_2 ? unit : 256 * mebibyte;

// Address space that is registered at once, so that resources of different sizes can have it one after the other. What a
// resource leaves free of it costs 1/800 of that in memory (`start_heap`).
constexpr std::size_t smallest_range = books_in_arena ? unit : 256 * mebibyte;

// mimalloc 3 divides what is larger into arenas each of which has books of its own.
constexpr std::size_t largest_range = books_in_arena ? std::size_t{16} << 30 : std::size_t{1} << 46;

// Larger objects take whole stretches of 32 MiB in a row: segments of 2.0.9, or chunks of 3.6, which rounds sizes up and adds
// a little. The first chunk of an arena has books in it, so that it is never among them.
constexpr std::size_t stretch = 32 * mebibyte;
constexpr std::size_t largest_in_stretch = is_version_2 ? 16 * mebibyte : 31 * mebibyte;

// Of a resource. What is above the second number version 3 takes from the system, which a heap in an arena may not ask.
constexpr std::size_t largest_alignment = 16 * mebibyte;
constexpr std::size_t largest_native_alignment = is_version_2 ? largest_alignment : 64 << 10;

auto fail(std::error_code code, std::string_view operation, std::string_view hint, std::string_view path = {})
    -> std::unexpected<error> {
  return std::unexpected(error::make(code, operation, path, {}, hint));
}
auto fail(std::errc code, std::string_view hint) -> std::unexpected<error> {
  return fail(std::make_error_code(code), "make a mimalloc arena", hint);
}
auto fail(int code) -> std::unexpected<error> {
  return fail(std::error_code{code, std::system_category()}, "make a mimalloc arena", {});
}

// A thread that makes heaps, and sleeps otherwise.
//
// A heap of mimalloc 2 belongs to the thread that made it, by way of records that it shares with the thread's other heaps,
// the one of malloc included: lists of free pages go from the one into the other's memory. So nobody else may use it while
// that thread lives; when the thread ends, its pages are given to others; and in a forked child malloc itself would write to
// memory that is still the parent's, where that is a file's. None of it is so for a heap of a thread that never allocates
// again and never ends. Whoever uses such a heap needs a lock, and nothing else: mimalloc finds all that it writes to from
// the heap, and asks which thread is running only to tell blocks that it may free at once (2.0.9: `_mi_thread_id` in
// `mi_segment_alloc` and `mi_free`).
class heap_maker {
public:
  // Throws std::system_error when there can be no more threads.
  heap_maker() {
    os::no_handlers const meanwhile;
    std::thread{[this] { serve(); }}.detach();
  }
  heap_maker(heap_maker const&) = delete;
  auto operator=(heap_maker const&) -> heap_maker& = delete;
  ~heap_maker() = delete;

  // A new heap, or null.
  auto make(mi_arena_id_t in) -> mi_heap_t* {
    std::unique_lock guard{mutex_};
    in_ = in;
    is_wanted_ = true;
    changed_.notify_all();
    changed_.wait(guard, [&] { return !is_wanted_; });
    return made_;
  }

private:
  [[noreturn]] void serve() {
    std::unique_lock guard{mutex_};
    for (;;) {
      changed_.wait(guard, [&] { return is_wanted_; });
      made_ = mi_heap_new_in_arena(in_);
      is_wanted_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_wanted_ = false;
  mi_arena_id_t in_{};
  mi_heap_t* made_ = nullptr;
};

// Counts forks: threads that make heaps stay behind, and an arena over a file is the process's that made it.
constinit std::atomic<unsigned> forks{0};

constexpr std::size_t page_size = 4096;

// A page that mimalloc wrote to when it was handed a range.
struct page_of_books {
  std::size_t offset = 0;
  std::array<std::byte, page_size> bytes{};
};

// Address space that mimalloc knows as an arena. It knows it for good: a range that is in no use is kept for the next one.
struct range {
  std::byte* base = nullptr;
  std::size_t length = 0;
  mi_arena_id_t id{};
  std::vector<page_of_books> books;               // of an arena without objects, when they are in it
  os::descriptor shared_with = os::no_descriptor; // the file whose memory it has
  bool taken = false;
  bool to_be_emptied = false; // has memory of an arena that has gone, which could not be replaced then
  heap_maker* maker = nullptr;
  unsigned maker_made_after = 0; // forks
  std::mutex mutex;              // of the heap
};

// Of what uses the heap of a range.
class heap_lock {
public:
  explicit heap_lock(range& of) : mutex_{of.mutex} {
    if constexpr (heaps_need_a_lock) {
      mutex_.lock();
    }
  }
  heap_lock(heap_lock const&) = delete;
  auto operator=(heap_lock const&) -> heap_lock& = delete;
  ~heap_lock() {
    if constexpr (heaps_need_a_lock) {
      mutex_.unlock();
    }
  }

private:
  std::mutex& mutex_;
};

auto new_heap(range& in) -> mi_heap_t* {
  if constexpr (!heaps_need_a_lock) {
    return mi_heap_new_in_arena(in.id);
  }
  auto const now = forks.load(std::memory_order_relaxed);
  if (in.maker == nullptr || in.maker_made_after != now) {
    in.maker = new heap_maker;
    in.maker_made_after = now;
  }
  return in.maker->make(in.id);
}

auto is_zero(std::span<std::byte const> page) -> bool {
  return page.front() == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

// Notes what mimalloc has written to a range that was all zeros. It never writes further in before there is an object (3.6:
// 0.5 MiB, and 2 MiB more of 16 GiB).
void keep_books(range& of) {
  auto const end = books_in_arena ? (of.length / 256) + (4 * mebibyte) : 0;
  for (std::size_t offset = 0; offset < end; offset += page_size) {
    std::span const page{of.base + offset, page_size};
    if (!is_zero(page)) {
      of.books.push_back({.offset = offset});
      std::ranges::copy(page, of.books.back().bytes.begin());
    }
  }
}

void drop_failure(os::outcome<void> const& done, std::string_view path, std::string_view hint) {
  if (!done) {
    report_dropped_error(
        fail(std::error_code{done.error(), std::system_category()}, "release a mimalloc arena", hint, path).error());
  }
}

void give_up_addresses(std::byte* from, std::size_t length) {
  if (length > 0) {
    drop_failure(os::unmap(from, length), {}, "its addresses stay taken");
  }
}

// Puts other memory behind the end of a range, from `offset` on, in one step: other threads of mimalloc may be reading. What
// it has of mimalloc's books there are those of an arena without objects: of the objects before, which leave their traces in
// the books and among them, nothing stays.
auto put(range const& into, std::size_t offset, os::protection access, os::map_flags flags,
         os::descriptor file = os::no_descriptor) -> os::outcome<void> {
  auto const length = into.length - offset;
  auto* const to = into.base + offset;
  if constexpr (!books_in_arena) {
    flags.replace = true;
    auto const mapped = os::map(to, length, access, flags, file, 0);
    return mapped ? os::outcome<void>{} : std::unexpected(mapped.error());
  }
  auto const mapped = os::map(nullptr, length, access, flags, file, 0);
  if (!mapped) {
    return std::unexpected(mapped.error());
  }
  for (auto const& page : into.books) {
    std::ranges::copy(page.bytes, *mapped + page.offset);
  }
  auto const moved = os::move_map(*mapped, length, to);
  if (!moved) {
    give_up_addresses(*mapped, length);
  }
  return moved;
}

constexpr os::map_flags idle_memory{.shared = false, .anonymous = true, .no_reserve = true};

// What a range is when no resource has it: nothing that can be touched, or mimalloc's books and zeros.
auto put_idle_memory(range const& into) -> os::outcome<void> {
  return put(into, 0, {.read = books_in_arena, .write = books_in_arena}, idle_memory);
}

class range_pool {
public:
  // A range for `size` bytes: one of the size that a new one would have, a new one, or, where there can be no new one, the
  // smallest that is larger.
  static auto take(std::size_t size) -> result<range*> {
    auto const length = std::max(smallest_range, books_in_arena ? size : std::bit_ceil(size));
    std::scoped_lock const guard{mutex()};
    watch_forks();
    auto* best = smallest_free(size);
    if (best == nullptr || best->length > length) {
      auto made = add(length);
      if (made) {
        best = *made;
      } else if (best == nullptr) {
        return std::unexpected(std::move(made).error());
      }
    }
    best->taken = true;
    return best;
  }

  static void note_file(range& of, os::descriptor file) {
    std::scoped_lock const guard{mutex()};
    of.shared_with = file;
  }

  static void give_back(range& one, bool emptied) {
    std::scoped_lock const guard{mutex()};
    one.taken = false;
    one.to_be_emptied = !emptied;
  }

private:
  // A fork waits for whoever uses a heap, so that the child has all of them in one piece.
  static void watch_forks() {
    static auto const watching = os::at_fork(
        +[] {
          mutex().lock();
          for (auto const& one : ranges()) {
            one->mutex.lock();
          }
        },
        +[] { go_on(); },
        +[] {
          forks.fetch_add(1, std::memory_order_relaxed);
          part_from_parent();
          go_on();
        });
    (void)watching; // where that is refused, a child does not learn that it is one
  }

  // In the child: what mimalloc 3 writes to arenas when a thread or the process ends stays out of the files, which are the
  // parent's. What it writes in a fork handler of its own, for threads that are gone, comes before this.
  static void part_from_parent() {
    for (auto const& one : ranges()) {
      if (books_in_arena && one->shared_with != os::no_descriptor) {
        auto const copied = os::map(one->base, one->length, {.read = true, .write = true},
                                    {.shared = false, .no_reserve = true, .replace = true}, one->shared_with, 0);
        drop_failure(copied ? os::outcome<void>{} : std::unexpected(copied.error()), {},
                     "a forked child shares its memory");
        one->shared_with = os::no_descriptor;
      }
    }
  }

  static void go_on() {
    for (auto const& one : ranges()) {
      one->mutex.unlock();
    }
    mutex().unlock();
  }

  // Never destroyed: resources of static storage duration may be later.
  static auto mutex() -> std::mutex& {
    static auto& instance = *new std::mutex;
    return instance;
  }
  static auto ranges() -> std::vector<std::unique_ptr<range>>& {
    static auto& instance = *new std::vector<std::unique_ptr<range>>;
    return instance;
  }

  static auto smallest_free(std::size_t size) -> range* {
    range* best = nullptr;
    for (auto const& one : ranges()) {
      if (one->to_be_emptied && put_idle_memory(*one)) {
        one->to_be_emptied = false;
      }
      if (!one->taken && !one->to_be_emptied && one->length >= size &&
          (best == nullptr || one->length < best->length)) {
        best = one.get();
      }
    }
    return best;
  }

  static auto add(std::size_t length) -> result<range*> {
    auto made = std::make_unique<range>();
    made->length = length;
    ranges().reserve(ranges().size() + 1);
    auto const held = os::map(nullptr, length + range_alignment, {.read = false}, idle_memory, os::no_descriptor, 0);
    if (!held) {
      return fail(held.error());
    }
    auto const before =
        static_cast<std::size_t>(os::gap_to_congruent(reinterpret_cast<std::uintptr_t>(*held), 0, range_alignment));
    made->base = *held + before;
    give_up_addresses(*held, before);
    give_up_addresses(made->base + length, range_alignment - before);
    if (auto failed = hand_over(*made)) {
      give_up_addresses(made->base, length);
      return std::unexpected(*std::move(failed));
    }
    return ranges().emplace_back(std::move(made)).get();
  }

  // The memory is said to be committed, and with version 3 pinned: mimalloc then never gives any of it back by itself.
  static auto hand_over(range& one) -> std::optional<error> {
    if constexpr (books_in_arena) {
      if (auto const ready = os::protect(one.base, one.length, {.read = true, .write = true}); !ready) {
        return fail(ready.error()).error();
      }
    }
    if (mi_manage_os_memory_ex(one.base, one.length, true, books_in_arena, true, -1, true, &one.id)) {
      keep_books(one);
      return std::nullopt;
    }
    auto const taken =
        static_cast<std::size_t>(std::ranges::count_if(ranges(), [](auto const& r) { return r->taken; }));
    return fail(std::errc::resource_unavailable_try_again,
                std::string{"this mimalloc has no more arenas for the process, which are "} +
                    (is_version_2 ? "64" : "160 with malloc's own") + " in version " + (is_version_2 ? "2" : "3") +
                    "; " + std::to_string(taken) + " are in use here, and the others are too small")
        .error();
  }
};

} // namespace

// What a resource is made of.
class mimalloc_arena {
public:
  static auto make(file storage, std::size_t size, bool no_reserve) -> result<std::unique_ptr<mimalloc_arena>>;

  mimalloc_arena() = default;
  mimalloc_arena(mimalloc_arena const&) = delete;
  auto operator=(mimalloc_arena const&) -> mimalloc_arena& = delete;
  ~mimalloc_arena();

  [[nodiscard]] auto allocate(std::size_t bytes, std::size_t alignment) -> void*;
  void deallocate(void* pointer, std::size_t bytes, std::size_t alignment) noexcept;

  [[nodiscard]] auto bytes() const noexcept -> std::span<std::byte const> { return {data_, size_}; }
  [[nodiscard]] auto view() const noexcept -> mapping const& { return view_; }
  [[nodiscard]] auto has_file() const noexcept -> bool { return file_.is_open(); }
  [[nodiscard]] auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] auto stats() const noexcept -> resource_stats;

private:
  // Whether the memory is that of the process which this one was forked from.
  [[nodiscard]] auto is_forked() const noexcept -> bool {
    return has_file() && forks_before_ != forks.load(std::memory_order_relaxed);
  }
  [[nodiscard]] auto back(bool no_reserve) -> result<void>;
  [[nodiscard]] auto back_by_file(bool no_reserve) -> result<void>;
  [[nodiscard]] auto start_heap() -> result<void>;
  void count(std::size_t bytes) noexcept;
  void discount(std::size_t bytes) noexcept;
  [[nodiscard, gnu::cold]] auto allocate_again(std::size_t bytes, std::size_t alignment) -> void*;
  [[noreturn, gnu::cold]] void refuse(std::size_t bytes, std::size_t alignment) const;

  range* range_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  mi_heap_t* heap_ = nullptr;
  unsigned forks_before_ = forks.load(std::memory_order_relaxed);
  file file_;
  mapping view_; // of the file once more, elsewhere: what flushes
  std::atomic<std::size_t> used_{0};
  std::atomic<std::size_t> peak_{0};
};

auto mimalloc_arena::make(file storage, std::size_t size, bool no_reserve) -> result<std::unique_ptr<mimalloc_arena>> {
  if (size < unit || size > largest_range) {
    return fail(std::errc::invalid_argument, std::to_string(size) + " bytes are not from " + std::to_string(unit) +
                                                 " to " + std::to_string(largest_range));
  }
  auto made = std::make_unique<mimalloc_arena>();
  auto const rounded = (size + unit - 1) / unit * unit;
  auto const taken = range_pool::take(rounded);
  if (!taken) {
    return std::unexpected(taken.error());
  }
  made->range_ = *taken;
  made->size_ = books_in_arena ? made->range_->length : rounded;
  made->data_ = made->range_->base + (made->range_->length - made->size_);
  made->file_ = std::move(storage);
  auto ready = made->back(no_reserve);
  if (ready) {
    ready = made->start_heap();
  }
  if (!ready) {
    auto emptied = std::move(made->file_);
    made.reset();
    if (emptied.is_open() && emptied.size() != std::uint64_t{0}) {
      if (auto const done = emptied.resize(0); !done) {
        report_dropped_error(done.error());
      }
    }
    return std::unexpected(std::move(ready).error());
  }
  return made;
}

// A range whose heap is another process's is not used again, and with books in it not touched: the thread that forked has
// that heap's pages on its lists.
mimalloc_arena::~mimalloc_arena() {
  auto const forked = is_forked();
  if (heap_ != nullptr && !forked) {
    heap_lock const guard{*range_};
    mi_heap_destroy(heap_);
  }
  if (range_ != nullptr) {
    range_pool::note_file(*range_, os::no_descriptor);
  }
  if (range_ != nullptr && !(forked && books_in_arena)) {
    auto const emptied = put_idle_memory(*range_);
    drop_failure(emptied, path(), "its memory goes with the next arena that is made");
    if (!forked) {
      range_pool::give_back(*range_, emptied.has_value());
    }
  }
}

auto mimalloc_arena::back(bool no_reserve) -> result<void> {
  auto const excess = range_->length - size_;
  constexpr os::protection writable{.read = true, .write = true};
  if (excess > 0) { // mimalloc will write at its start
    if (auto const put_there = put(*range_, 0, writable, idle_memory); !put_there) {
      return fail(put_there.error());
    }
  }
  if (has_file()) {
    if (auto const backed = back_by_file(no_reserve); !backed) {
      return backed;
    }
  } else if (auto nothing = mapping::anonymous(0)) { // whose flush says why there is none
    view_ = *std::move(nothing);
  }
  auto const put_there =
      put(*range_, excess, writable, {.shared = has_file(), .anonymous = !has_file(), .no_reserve = no_reserve},
          has_file() ? file_.native_handle() : os::no_descriptor);
  if (!put_there) {
    return fail(put_there.error());
  }
  range_pool::note_file(*range_, has_file() ? file_.native_handle() : os::no_descriptor);
  return {};
}

auto mimalloc_arena::back_by_file(bool no_reserve) -> result<void> {
  if (auto const sized = no_reserve ? file_.resize(size_) : file_.allocate({.offset = 0, .length = size_}); !sized) {
    return sized;
  }
  auto view = mapping::map(file_, {.access = access::read_write});
  if (!view) {
    return std::unexpected(view.error());
  }
  view_ = std::move(*view);
  return {};
}

// A heap that allocates from the last `size_` bytes of the range alone: one object of its own holds the segments before
// them. mimalloc looks for segments from the front; those that it has kept from earlier heaps are in the way until it is
// made to let go of them, and for a moment when another thread makes it.
auto mimalloc_arena::start_heap() -> result<void> {
  constexpr std::size_t room_for_header = 4 * mebibyte;
  auto const excess = range_->length - size_;
  for (int attempt = 0; attempt < 100; ++attempt) {
    mi_heap_t* heap = nullptr;
    try {
      heap = new_heap(*range_);
    } catch (std::system_error const& no_thread) {
      return fail(no_thread.code(), "make a mimalloc arena", "it takes a thread");
    }
    if (heap == nullptr) {
      break;
    }
    heap_lock const guard{*range_};
    auto* const held =
        excess == 0 ? range_->base : static_cast<std::byte*>(mi_heap_malloc(heap, excess - room_for_header));
    if (held >= range_->base && held < range_->base + room_for_header) {
      heap_ = heap;
      return {};
    }
    mi_heap_collect(heap, true); // not mi_collect, which does nothing on a thread that is new to mimalloc
    mi_heap_destroy(heap);
    std::this_thread::sleep_for(std::chrono::microseconds{attempt < 10 ? 0 : 1000});
  }
  return fail(std::errc::not_enough_memory, "mimalloc made no heap");
}

namespace {

// With what mimalloc is asked for in the place of a large alignment.
auto with_room_to_align(std::size_t bytes, std::size_t alignment) -> std::size_t {
  return alignment <= largest_native_alignment ? bytes : std::max<std::size_t>(bytes, 1) + alignment;
}

// In a block with room before the object, which has the block's address right before it.
auto allocate_in_larger(mi_heap_t* heap, std::size_t bytes, std::size_t alignment) -> void* {
  if (alignment > largest_alignment || bytes > largest_range) {
    return nullptr;
  }
  auto* const block = static_cast<std::byte*>(mi_heap_malloc(heap, with_room_to_align(bytes, alignment)));
  if (block == nullptr) {
    return nullptr;
  }
  auto* const earliest = block + sizeof(void*);
  auto* const object = earliest + os::gap_to_congruent(reinterpret_cast<std::uintptr_t>(earliest), 0, alignment);
  std::memcpy(object - sizeof(void*), static_cast<void const*>(&block), sizeof(void*));
  return object;
}

auto block_of(void* object, std::size_t alignment) noexcept -> void* {
  void* block = object;
  if (alignment > largest_native_alignment) {
    std::memcpy(static_cast<void*>(&block), static_cast<std::byte*>(object) - sizeof(void*), sizeof(void*));
  }
  return block;
}

// Not by mi_heap_malloc_aligned: 2.0.9 takes blocks of 256, 512 and 1024 bytes for aligned to their size, which they are
// not, and makes room for an alignment that all blocks have.
auto allocate_from(mi_heap_t* heap, std::size_t bytes, std::size_t alignment) -> void* {
  auto const natural = bytes > sizeof(void*) ? 2 * sizeof(void*) : sizeof(void*);
  if (!is_version_2 && alignment > largest_native_alignment) {
    return allocate_in_larger(heap, bytes, alignment);
  }
  return alignment <= natural ? mi_heap_malloc(heap, bytes) : mi_heap_malloc_aligned_at(heap, bytes, alignment, 0);
}

} // namespace

auto mimalloc_arena::allocate(std::size_t bytes, std::size_t alignment) -> void* {
  if (is_forked()) [[unlikely]] {
    throw allocation_error{error::make(make_error_code(errc::forked), "allocate", path())};
  }
  {
    heap_lock const guard{*range_};
    if (auto* const block = allocate_from(heap_, bytes, alignment); block != nullptr) [[likely]] {
      count(bytes);
      return block;
    }
  }
  return allocate_again(bytes, alignment);
}

// A free segment of this arena is nowhere for a moment when another thread makes mimalloc collect what it has kept.
auto mimalloc_arena::allocate_again(std::size_t bytes, std::size_t alignment) -> void* {
  for (auto const pause : {std::chrono::microseconds{50}, std::chrono::microseconds{1000}}) {
    if (!is_version_2 || bytes > size_ - std::min(size_, used_.load(std::memory_order_relaxed))) {
      break;
    }
    std::this_thread::sleep_for(pause);
    heap_lock const guard{*range_};
    if (auto* const block = allocate_from(heap_, bytes, alignment); block != nullptr) {
      count(bytes);
      return block;
    }
  }
  refuse(bytes, alignment);
}

void mimalloc_arena::deallocate(void* pointer, std::size_t bytes, std::size_t alignment) noexcept {
  if (!is_forked()) [[likely]] {
    heap_lock const guard{*range_};
    mi_free(block_of(pointer, alignment));
    discount(bytes);
  }
}

// Under the lock, where there is one.
void mimalloc_arena::count(std::size_t bytes) noexcept {
  if constexpr (heaps_need_a_lock) {
    auto const used = used_.load(std::memory_order_relaxed) + bytes;
    used_.store(used, std::memory_order_relaxed);
    if (used > peak_.load(std::memory_order_relaxed)) {
      peak_.store(used, std::memory_order_relaxed);
    }
  } else {
    auto const used = used_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    auto before = peak_.load(std::memory_order_relaxed);
    while (used > before && !peak_.compare_exchange_weak(before, used, std::memory_order_relaxed)) {
    }
  }
}

void mimalloc_arena::discount(std::size_t bytes) noexcept {
  if constexpr (heaps_need_a_lock) {
    used_.store(used_.load(std::memory_order_relaxed) - bytes, std::memory_order_relaxed);
  } else {
    used_.fetch_sub(bytes, std::memory_order_relaxed);
  }
}

auto mimalloc_arena::stats() const noexcept -> resource_stats {
  auto const used = used_.load(std::memory_order_relaxed);
  return {.used_bytes = used,
          .free_bytes = size_ - std::min(size_, used),
          .reserved_bytes = size_,
          .peak_bytes = std::max(used, peak_.load(std::memory_order_relaxed))};
}

namespace {

// Of any arena.
auto largest_object() -> std::size_t {
#if MI_MALLOC_VERSION >= 30600
  return mi_arena_max_object_size();
#else
  return SIZE_MAX;
#endif
}

} // namespace

void mimalloc_arena::refuse(std::size_t bytes, std::size_t alignment) const {
  auto hint = std::to_string(bytes) + " bytes aligned to " + std::to_string(alignment) +
              " do not fit into what is free of the " + std::to_string(size_) + " bytes of the arena";
  if (alignment > largest_alignment) {
    hint += "; mimalloc aligns to " + std::to_string(largest_alignment) + " at most";
  } else if (bytes > largest_object()) {
    hint += "; this mimalloc has no objects of more than " + std::to_string(largest_object()) + " bytes in an arena";
  } else if (bytes > largest_in_stretch - alignment) {
    hint += "; more than " + std::to_string(largest_in_stretch) + " bytes take free " +
            (is_version_2 ? "segments" : "chunks") + " of " + std::to_string(stretch) + " in a row, whole ones";
  }
  throw allocation_error{error::make(make_error_code(errc::reservation_exceeded), "allocate", path(), {}, hint)};
}

// --- The resource -----------------------------------------------------------------------------------------------------

mimalloc_resource::mimalloc_resource(std::unique_ptr<mimalloc_arena> arena) noexcept : arena_{std::move(arena)} {}

mimalloc_resource::~mimalloc_resource() = default;

auto mimalloc_resource::make(file storage, std::size_t size, mimalloc_options options)
    -> result<std::unique_ptr<mimalloc_resource>> {
  auto arena = mimalloc_arena::make(std::move(storage), size, options.no_reserve);
  if (!arena) {
    return std::unexpected(std::move(arena).error());
  }
  return std::unique_ptr<mimalloc_resource>{new mimalloc_resource{*std::move(arena)}};
}

auto mimalloc_resource::anonymous(std::size_t size, mimalloc_options options)
    -> result<std::unique_ptr<mimalloc_resource>> {
  return make({}, size, options);
}

auto mimalloc_resource::temporary(std::filesystem::path const& directory, std::size_t size, mimalloc_options options)
    -> result<std::unique_ptr<mimalloc_resource>> {
  auto storage = file::temporary(directory);
  if (!storage) {
    return std::unexpected(std::move(storage).error());
  }
  return make(*std::move(storage), size, options);
}

auto mimalloc_resource::over(file storage, std::size_t size, mimalloc_options options)
    -> result<std::unique_ptr<mimalloc_resource>> {
  auto const before = storage.size();
  if (!before) {
    return std::unexpected(before.error());
  }
  if (*before != 0) {
    return fail(std::make_error_code(std::errc::invalid_argument), "make a mimalloc arena of",
                "the file is not empty, and the arena would write over what is in it", storage.path());
  }
  return make(std::move(storage), size, options);
}

auto mimalloc_resource::flush(durability level) -> result<durability> { return arena_->view().flush(whole, level); }

auto mimalloc_resource::flush(void const* pointer, std::size_t size, durability level) -> result<durability> {
  auto const bytes = arena_->bytes();
  auto const offset =
      size == 0 ? 0 : reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(bytes.data());
  if (!os::fits(offset, size, bytes.size())) {
    return fail(make_error_code(errc::out_of_range), "flush", "the bytes are not the arena's", arena_->path());
  }
  return arena_->view().flush(arena_->has_file() ? byte_range{.offset = offset, .length = size} : whole, level);
}

auto mimalloc_resource::stage_flush(durability level) -> result<flush_job> {
  return arena_->view().stage_flush(whole, level);
}

auto mimalloc_resource::storage() const noexcept -> std::span<std::byte const> { return arena_->bytes(); }

auto mimalloc_resource::stats() const -> resource_stats { return arena_->stats(); }

auto mimalloc_resource::do_allocate(std::size_t bytes, std::size_t alignment) -> void* {
  return arena_->allocate(bytes, alignment);
}

void mimalloc_resource::do_deallocate(void* pointer, std::size_t bytes, std::size_t alignment) {
  arena_->deallocate(pointer, bytes, alignment);
}

auto mimalloc_resource::do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool {
  return this == &other;
}

// --- Upstream ---------------------------------------------------------------------------------------------------------

namespace {

class upstream_resource final : public std::pmr::memory_resource {
  [[nodiscard]] auto do_allocate(std::size_t bytes, std::size_t alignment) -> void* override {
    auto* const block = mi_malloc_aligned_at(bytes, alignment, 0); // as in `allocate_from`
    if (block == nullptr) [[unlikely]] {
      throw allocation_error{error::make(std::make_error_code(std::errc::not_enough_memory), "allocate", {}, {},
                                         std::to_string(bytes) + " bytes aligned to " + std::to_string(alignment))};
    }
    return block;
  }

  void do_deallocate(void* pointer, std::size_t bytes, std::size_t alignment) override {
    mi_free_size_aligned(pointer, bytes, alignment);
  }

  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override {
    return this == &other;
  }
};

} // namespace

auto mimalloc_upstream_resource() noexcept -> std::pmr::memory_resource* {
  // Never destroyed, as what uses it may be later.
  alignas(upstream_resource) static std::byte room[sizeof(upstream_resource)];
  static auto* const instance = ::new (room) upstream_resource;
  return instance;
}

} // namespace fmmap
