// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

// What a code_arena is. Implementation units only.
module fmmap.exec:arena_state;

import fmmap.alloc;
import fmmap.core;
import fmmap.os;
import :code_arena;
import :code_listing;
import :code_memory;
import :code_span;

namespace fmmap {

// Functions begin at multiples of a cache line: a write to one makes a processor throw away what it has decoded of the line.
inline constexpr std::size_t line = 64;

inline constexpr std::size_t largest_alignment = 4096;

// Which functions there are, in a word for each line: 0 where no function is; in a function's first line what it is, and its
// length; in another one of its lines, with the highest bit, how many lines it is to the first. Read without a lock. Beside the first
// word is a number for who has the lock: where in a batch the function is.
class code_index {
public:
  enum class kind : unsigned char { none, allocated, written, published, retired };
  struct entry {
    code_index::kind kind = kind::none;
    std::size_t offset = 0; // of the function's first byte
    std::size_t size = 0;
  };

  static constexpr std::size_t largest = (std::size_t{1} << 28) - 1;

  // Errors: as `mapping::anonymous`.
  [[nodiscard]] static auto make(std::size_t reserve) -> result<code_index>;

  // The function that has the byte in it.
  [[nodiscard]] inline auto find(std::size_t offset) const noexcept -> entry {
    auto first = offset / line * line;
    auto word = at(first).load(std::memory_order_acquire);
    if ((word & inside) != 0) {
      first -= (word & ~inside) * line;
      word = at(first).load(std::memory_order_acquire);
    }
    if (word == 0 || (word & inside) != 0 || offset - first >= size_in(word)) {
      return {};
    }
    return {.kind = static_cast<code_index::kind>(word >> size_bits), .offset = first, .size = size_in(word)};
  }

  // Up to an offset, in bytes of whole lines: of all functions, without any at the end, and of the longest such run before.
  struct usage {
    std::size_t used = 0;
    std::size_t free_at_end = 0;
    std::size_t longest_free = 0;
  };
  [[nodiscard]] auto usage_up_to(std::size_t end) const noexcept -> usage;

  [[nodiscard]] inline auto place(std::size_t offset) const noexcept -> std::uint32_t& {
    return cells_[offset / line].place;
  }

  void add(std::size_t offset, std::size_t size) noexcept;
  void set(std::size_t offset, kind now) noexcept;
  void remove(std::size_t offset) noexcept;

private:
  static constexpr std::uint32_t inside = std::uint32_t{1} << 31U;
  static constexpr unsigned size_bits = 28;

  static constexpr auto word_of(code_index::kind kind, std::size_t size) noexcept -> std::uint32_t {
    return (static_cast<std::uint32_t>(kind) << size_bits) | static_cast<std::uint32_t>(size);
  }
  static constexpr auto size_in(std::uint32_t word) noexcept -> std::size_t { return word & largest; }

  struct cell {
    std::uint32_t word;
    std::uint32_t place;
  };

  explicit code_index(mapping memory) noexcept
      : memory_{std::move(memory)}, cells_{reinterpret_cast<cell*>(memory_.writable_bytes().data())} {}
  [[nodiscard]] inline auto at(std::size_t offset) const noexcept -> std::atomic_ref<std::uint32_t> {
    return std::atomic_ref{cells_[offset / line].word};
  }

  mapping memory_;
  cell* cells_;
};

// Who may be executing what. There are two generations, of which one begins while the other ends: what was retired in one can go
// when all guards of that and of the one before have ended.
class guards {
public:
  [[nodiscard]] auto begin() noexcept -> unsigned; // returns what `end` has to be given
  void end(unsigned place) noexcept;

  // What is retired now belongs to this generation.
  [[nodiscard]] inline auto generation() const noexcept -> std::uint64_t { return generation_.load(); }

  // Begins the next generation when all guards of the one before the current have ended, and the one after that likewise. One
  // thread at a time.
  void advance() noexcept;

  // Whether nobody guards what was retired in `generation`.
  [[nodiscard]] inline auto have_ended(std::uint64_t generation) const noexcept -> bool {
    return generation_.load() >= generation + 2;
  }

private:
  static constexpr unsigned stripes = 16; // so that threads do not wait for each other's cache line
  struct alignas(64) stripe {
    std::array<std::atomic<std::uint32_t>, 2> begun{}; // by the generation's last bit
  };

  std::atomic<std::uint64_t> generation_{0};
  std::array<stripe, stripes> all_;
};

class arena_state final : public alloc::space {
public:
  [[nodiscard]] static auto make(code_arena_options const& options) -> result<std::shared_ptr<arena_state>>;

  arena_state(std::unique_ptr<code_memory> memory, code_index index, std::unique_ptr<code_listing> listing);
  ~arena_state() override;

  [[nodiscard]] inline auto memory() const noexcept -> code_memory const& { return *memory_; }
  // `is_owned`: by an object that alone may retire it.
  [[nodiscard]] auto allocate(std::size_t size, std::size_t alignment, bool is_owned = false) -> result<code_span>;
  [[nodiscard]] auto write(code_span to, std::span<std::byte const> code, std::string_view name) -> result<void>;
  [[nodiscard]] auto publish() -> result<void>;
  [[nodiscard]] auto retire(code_span function, bool by_owner = false) -> result<void>;
  [[nodiscard]] auto reclaim() -> result<std::size_t>;
  [[nodiscard]] auto find(void const* address) const noexcept -> std::optional<code_span>;
  [[nodiscard]] auto seal() -> result<void>;
  [[nodiscard]] inline auto is_sealed() const noexcept -> bool { return state_.load() == state::sealed; }
  [[nodiscard]] inline auto is_forked() const noexcept -> bool {
    return state_.load() == state::forked;
  } // closed or not
  [[nodiscard]] inline auto is_closed() const noexcept -> bool { return state_.load() == state::closed; }
  [[nodiscard]] auto stats() const -> code_stats;
  [[nodiscard]] auto close() -> result<void>;
  [[nodiscard]] auto guarding() noexcept -> guards& { return guards_; }

  // Makes bytes of a published function others, which nobody executes; `publish` makes sure that nobody has prefetched them.
  [[nodiscard]] auto change(code_span published, std::size_t offset, std::span<std::byte const> bytes) -> result<void>;

private:
  friend class open_arenas;
  enum class state : unsigned char { open, sealed, closed, forked };

  // Of code that is written and not published; of no bytes when it has been given up. It is in place already, unless `put` gathers.
  struct pending {
    std::uint32_t offset;         // of the function, in the arena
    std::uint32_t size;           // in whole lines
    std::uint32_t position;       // of its bytes, in `staged_`
    bool may_be_in_place = false; // after a call of `publish` that failed
  };
  struct waiting {
    std::uint64_t generation;
    std::uint32_t offset;
    std::uint32_t size;
    bool is_trapped; // nothing has come there
  };

  // The lock, of an arena that is open. It is not waited for otherwise: in a child it may belong to a thread that is not there.
  [[nodiscard]] inline auto lock_open() const -> std::unique_lock<std::mutex> {
    auto const is_open = [&] { return state_.load(std::memory_order_acquire) == state::open; };
    if (!is_open()) [[unlikely]] {
      return {};
    }
    std::unique_lock lock{mutex_};
    if (!is_open()) [[unlikely]] { // sealed meanwhile
      return {};
    }
    return lock;
  }
  [[nodiscard, gnu::cold]] auto refuse(std::string_view operation) const -> std::unexpected<error>;
  // What has been allocated and not retired; of no kind if that is not so.
  [[nodiscard]] inline auto in_use(code_span function) const noexcept -> code_index::entry {
    auto const offset =
        reinterpret_cast<std::uintptr_t>(function.address()) - reinterpret_cast<std::uintptr_t>(memory_->base());
    if (offset < memory_->reserve()) [[likely]] {
      auto const found = index_.find(offset);
      if (found.kind != code_index::kind::retired && found.offset == offset && found.size == function.size())
          [[likely]] {
        return found;
      }
    }
    return {};
  }
  [[nodiscard]] inline auto span_of(std::size_t offset, std::size_t size) const noexcept -> code_span {
    return {memory_->base() + offset, size};
  }

  // With the lock.
  [[nodiscard]] auto write_in_place(code_index::entry const& to, std::span<std::byte const> code) -> os::outcome<void>;
  void stage(code_index::entry const& to, std::span<std::byte const> code);
  void keep_room_for_owned(std::size_t others);
  void add_pending(code_index::entry const& to, std::size_t position);
  void note_failure() noexcept;
  [[nodiscard]] auto fill_retired(std::span<waiting> retired, std::size_t& filled) -> os::outcome<void>;
  [[nodiscard]] auto put_pending() -> os::outcome<void>;
  void list_pending();
  [[nodiscard]] auto publish_locked() -> result<void>;
  [[nodiscard]] auto reclaim_locked() -> result<std::size_t>;
  void deallocate(std::size_t offset, std::size_t size) noexcept;

  [[nodiscard]] auto grow_to(std::size_t size) -> result<void> override;
  [[nodiscard]] auto provide(std::size_t offset, std::size_t length) -> result<void> override;
  [[nodiscard]] auto withdraw(std::size_t offset, std::size_t length) -> result<void> override;

  std::unique_ptr<code_memory> memory_;
  std::unique_ptr<code_listing> listing_; // null when nobody wants one
  code_index index_;
  guards guards_;
  std::atomic<state> state_{state::open};
  std::unique_ptr<alloc::allocator> allocator_;

  mutable std::mutex mutex_; // of all that follows
  std::vector<pending> pending_;
  bool have_some_been_given_up_ = false; // of those
  std::size_t put_ = 0;                  // of those, by the last call of `publish`, from the first on
  std::vector<std::byte> staged_;
  std::size_t staged_end_ = 0;
  std::vector<std::byte> run_;                    // of functions side by side, to be put at once
  std::vector<waiting> waiting_;                  // by generation
  std::map<std::size_t, std::size_t> alignments_; // of functions with more than a line's
  std::unordered_set<std::size_t> owned_;
  bool is_changed_ = false;
  std::size_t functions_ = 0;
  std::uint64_t publishes_ = 0;

  arena_state* next_ = nullptr; // of all that are open
  arena_state** link_ = nullptr;
};

} // namespace fmmap
