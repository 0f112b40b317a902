// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

export module fmmap.alloc:allocator;

import fmmap.core;
import :books;
import :checks;
import :magazines;
import :mutex;
import :size_classes;
import :space;

export namespace fmmap::alloc {

struct options {
  // Where offset 0 lies, for alignments and messages; a multiple of `page_bytes`.
  std::byte const* origin = nullptr;
  // Bytes of the space that are there at the start, and the most it will ever have.
  std::size_t size = 0;
  std::size_t limit = 0;
  // Whether what is there at the start has memory behind it; where not, it is provided as after `withdraw`.
  bool is_provided = true;
  // A run of at least so many bytes is withdrawn when it is deallocated.
  std::size_t withdraw_from = nowhere;
  // Whether a forked child works on the same bytes as its parent: then the parent alone goes on allocating.
  bool shared_with_children = false;
  // Whether every deallocation is looked at.
  bool checked = debug_build;
  // For errors.
  // NOLINTNEXTLINE(readability-redundant-member-init): so that an initializer may leave it out
  std::string path = {};
};

// The pages that are in use, with slabs and their free blocks, and those that are not, in bytes.
struct usage {
  std::size_t used = 0;
  std::size_t free = 0;
  std::size_t backed_free = 0; // with memory behind it
  std::size_t longest_free = 0;
  std::size_t peak = 0;
};

// What is known of 16 pages, enough to go on from.
struct chunk_state {
  enum kind : std::uint8_t { free = 0, run = 1, slab_inside = 2, first_slab_class = 3 };
  std::array<std::uint8_t, chunk_pages> pages{};
  std::array<std::uint64_t, chunk_pages * words_per_page> free_blocks{};

  auto operator==(chunk_state const&) const -> bool = default;
};

// Threads may allocate and deallocate at the same time, each what any other has allocated. Whatever says so needs exclusive use.
class allocator {
public:
  // Errors: as mapping::anonymous, of which the books are made.
  [[nodiscard]] static auto make(space& from, alloc::options const& options) -> result<std::unique_ptr<allocator>>;

  allocator(allocator const&) = delete;
  auto operator=(allocator const&) -> allocator& = delete;
  ~allocator();

  // `size` bytes at a multiple of `alignment`, a power of two; returns their offset.
  //
  // Errors: `errc::reservation_exceeded`; `errc::forked`; what the space reports.
  [[nodiscard, gnu::always_inline]] inline auto allocate(std::size_t size, std::size_t alignment)
      -> result<std::size_t> {
    auto const size_class = find_class(size, alignment);
    if (size_class < class_count) [[likely]] {
      auto const& mine = known[number_ % known_count];
      if (mine.allocator == number_) [[likely]] {
        auto& left = mine.of_it->counts[size_class];
        if (auto const count = left.load(std::memory_order_relaxed); count > 0) [[likely]] {
          auto const offset = mine.of_it->slots[magazine_begins[size_class] + count - 1];
          left.store(count - 1, std::memory_order_release);
          return offset;
        }
      }
    }
    return allocate_slowly(size, alignment, size_class);
  }

  // Of what was allocated with the same size and alignment.
  [[gnu::always_inline]] inline void deallocate(std::size_t offset, std::size_t size, std::size_t alignment) noexcept {
    auto const size_class = find_class(size, alignment);
    if (size_class < class_count && offset < limit_) [[likely]] {
      auto const& mine = known[number_ % known_count];
      if (mine.allocator == number_) [[likely]] {
        auto& there = mine.of_it->counts[size_class];
        if (auto const count = there.load(std::memory_order_relaxed); count < magazine_sizes[size_class]) [[likely]] {
          mine.of_it->slots[magazine_begins[size_class] + count] = offset;
          there.store(count + 1, std::memory_order_release);
          return;
        }
      }
    }
    deallocate_slowly(offset, size, alignment, size_class);
  }

  // Of a checked allocator: notes what has been allocated, and looks at what is about to be deallocated.
  [[nodiscard]] inline auto is_checked() const noexcept -> bool { return live_ != nullptr; }
  void note_allocated(std::size_t offset, std::size_t size, std::size_t alignment) {
    live_->add(offset, {size, alignment});
  }
  void check_deallocated(std::size_t offset, std::size_t size, std::size_t alignment);

  [[nodiscard]] auto in_use() const -> usage;

  // Withdraws all free pages, those of the calling thread's magazines and of empty slabs too; returns how many bytes.
  [[nodiscard]] auto trim() -> result<std::size_t>;

  // The same for chunks that are free as a whole and of which `may_go` is true, whether they have memory behind them or not.
  [[nodiscard]] auto trim_chunks(std::function<bool(std::size_t chunk)> const& may_go) -> result<std::size_t>;

  // Hands the blocks of the calling thread's magazines back.
  void flush_magazines() noexcept;

  // Deallocates everything. Needs exclusive use.
  void clear() noexcept;

  // Why nothing is allocated any more; empty while it is.
  [[nodiscard]] inline auto refusal() const noexcept -> std::optional<errc> { return refusal_; }

  // From now on, allocating is this error, and deallocating does nothing. Needs exclusive use.
  void refuse(errc why) noexcept;

  // --- State. Blocks in magazines count as free. All of it needs exclusive use, but threads may end. ---

  [[nodiscard]] auto size() const noexcept -> std::size_t { return books_.page_count() * page_bytes; }

  [[nodiscard]] auto state_of(std::size_t chunk) const -> chunk_state;

  // Whether nothing is allocated in the page there.
  [[nodiscard]] inline auto is_free(std::size_t offset) const -> bool {
    std::scoped_lock const lock{pages_mutex_};
    return offset >= size() || books_.is_free(offset / page_bytes);
  }

  // Whether something is allocated that holds these bytes.
  [[nodiscard]] auto is_live(std::size_t offset, std::size_t length) const -> bool;

  // Whether something is allocated that begins there and can have been asked for with that size and alignment, so that it can
  // be deallocated with them.
  [[nodiscard]] auto is_object(std::size_t offset, std::size_t size, std::size_t alignment) const -> bool;

  // What all that is allocated takes, in bytes of blocks and pages.
  [[nodiscard]] auto live_bytes() const -> std::size_t;

  // Makes the next export visit that chunk too.
  void export_again(std::size_t chunk) noexcept;

  // Calls `visit` with each chunk whose state may have changed since the last call, and its state.
  void export_dirty(std::function<void(std::size_t chunk, chunk_state const& state)> const& visit);

  // Takes over the state that another allocator of a space of this size had, chunk by chunk. Only right after `make`.
  //
  // Returns the first chunk whose state cannot be one, whatever the bytes are; the allocator is of no use then.
  [[nodiscard]] auto import(std::function<chunk_state(std::size_t chunk)> const& read) -> std::optional<std::size_t>;

private:
  friend class registry;

  struct class_books { // a cache line of its own each
    alignas(64) alloc::mutex mutex;
    std::size_t pages = 0; // of all slabs
  };

  allocator(space& from, alloc::options const& options, books made);

  [[nodiscard]] auto allocate_slowly(std::size_t size, std::size_t alignment, unsigned size_class)
      -> result<std::size_t>;
  void deallocate_slowly(std::size_t offset, std::size_t size, std::size_t alignment, unsigned size_class) noexcept;

  [[nodiscard]] auto allocate_block(unsigned size_class) -> result<std::size_t>;
  [[nodiscard]] auto refill(unsigned size_class, std::span<std::size_t> out) -> result<std::size_t>;
  [[nodiscard]] auto allocate_run(std::size_t pages, std::size_t alignment) -> result<std::size_t>;
  [[nodiscard]] auto take_run(std::size_t pages, std::size_t alignment) -> result<page_run>;
  [[nodiscard]] auto grow_for(std::size_t pages, std::size_t unit, std::size_t origin) -> result<void>;
  void free_run(page_run run) noexcept;

  [[nodiscard]] auto magazines_of_this_thread() noexcept -> magazines*;
  void spill(magazines& from, unsigned size_class, std::size_t count) noexcept;
  void give_back(unsigned size_class, std::span<std::size_t const> blocks) noexcept; // its lock is held
  void release_slab(page_run slab, unsigned size_class) noexcept;                    // likewise
  void release_empty_slabs() noexcept;
  [[nodiscard]] auto begin_trim() -> result<void>;
  [[nodiscard]] auto withdraw_free(page_run run, std::unique_lock<mutex>& lock) -> result<void>;
  void hand_back(magazines& from) noexcept;

  [[nodiscard]] auto blocks_in_magazines(std::unique_lock<std::mutex> const& kept) const -> std::vector<books::bit>;
  [[nodiscard]] auto plain_state_of(std::size_t chunk) const -> chunk_state;

  void lock_all() noexcept;
  void unlock_all() noexcept;
  void go_on_in_child() noexcept;

  // For messages: where a program says an object is may be anywhere.
  [[nodiscard]] inline auto at(std::size_t offset) const noexcept -> void const* {
    return reinterpret_cast<void const*>(reinterpret_cast<std::uintptr_t>(options_.origin) + offset);
  }

  [[nodiscard, gnu::cold]] auto fail(errc code, std::size_t size, std::string_view hint = {}) const
      -> std::unexpected<error>;

  std::uint64_t number_; // changes in a child that may not go on
  std::size_t limit_;
  space& space_;
  alloc::options const options_;
  std::optional<errc> refusal_; // why nothing is allocated any more
  std::unique_ptr<live_objects> live_;
  std::array<class_books, class_count> classes_;
  mutable mutex pages_mutex_; // after those of classes
  books books_;
  std::size_t peak_ = 0;
  std::vector<std::size_t> exported_cached_; // chunks whose state was another because of magazines
  magazines* caches_ = nullptr;              // of all threads; under the registry's lock
  allocator* next_ = nullptr;
  allocator** link_ = nullptr;
};

} // namespace fmmap::alloc
