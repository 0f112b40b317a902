// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

export module fmmap.exec:code_arena;

import fmmap.core;
import :code_span;

export namespace fmmap {

class exec_resource;

/// How code comes into memory that is never writable and executable at once.
enum class code_strategy : unsigned char {
  /// The first of those below that works here, found out by running code.
  automatic,
  /// No address of the process can write the code, and the system refuses to make one that can: bytes go through a
  /// descriptor. From Linux 3.17 on, with /proc.
  no_alias,
  /// The same memory has a second address that can be written. Publishing takes half the time.
  dual,
  /// Pages are built elsewhere, made executable, and moved over those they replace: needs neither a memory file nor /proc.
  /// Not where PR_SET_MDWE holds.
  toggle,
};

[[nodiscard]] auto to_string(code_strategy one) noexcept -> std::string_view;

struct code_arena_options {
  /// Bytes of address space to hold: all the code there can be. Up to 2 GiB; near the program less, which lies there too.
  std::size_t reserve = std::size_t{64} << 20;
  code_strategy strategy = code_strategy::automatic;
  /// All of it within 2 GiB of the program's own code, so that calls and addresses of 32 bits reach from one to the other.
  bool near_text = true;
  /// Lists what is published in /tmp/perf-PID.map, where perf(1) finds the names of such code. Nothing takes it off that list.
  bool perf_map = false;
  /// Tells debuggers what is published, by the JIT interface of GDB.
  bool debugger = false;
};

/// What an arena has in use. A function takes whole cache lines, 64 bytes at the least.
struct code_stats {
  /// Of all functions, those included that are retired and not reclaimed.
  std::size_t used_bytes = 0;
  std::size_t free_bytes = 0;
  /// The longest run without a function. What functions of one size have left is kept for others of that size, so that less
  /// can be had at once.
  std::size_t largest_free = 0;
  std::size_t reserved_bytes = 0;
  /// The most that has been in use, in whole pages.
  std::size_t peak_bytes = 0;
  /// Functions that are published and not retired.
  std::size_t functions = 0;
  /// Functions that are retired and wait for guards to end.
  std::size_t retired = 0;
  /// Calls of `publish` that had something to publish.
  std::uint64_t publishes = 0;

  /// The share of `free_bytes` that is not in the largest free run, from 0 to 1.
  [[nodiscard]] inline auto fragmentation() const noexcept -> double {
    return free_bytes == 0 ? 0.0 : 1.0 - (static_cast<double>(largest_free) / static_cast<double>(free_bytes));
  }
};

/// Memory for code that comes into being while the program runs.
///
/// A function is allocated, written, published with all others that have been written, called, and at last retired. What has
/// been published never changes until it is reclaimed, and is a trap afterwards; so is all memory that has no code yet. No two
/// functions share a cache line.
///
/// Memory is writable or executable, never both, with every strategy. Processes of the same user that may trace this one can
/// write anything; that is outside of what an arena can keep out.
///
/// Thread safety: all members but `close`, assignment and destruction may be called from any thread. A function may be called by
/// any thread that learns its address after `publish` has returned.
/// Fork: a child may run what is there, until the parent retires it, and sealed code for good; what it calls of the arena is
/// `errc::forked`, and it has neither descriptor nor alias. Not so after a clone(2) of one's own, which runs no handlers of
/// pthread_atfork(3). Exec: gone.
class code_arena {
public:
  /// Holds the address space, and finds out by running a function which strategy works.
  ///
  /// Errors: `errc::invalid_options` for a reserve of nothing or of more than 2 GiB; what the system says to the strategy that was
  /// asked for, or to the last one, when it does not work here: `std::errc::permission_denied` to `toggle` where PR_SET_MDWE
  /// holds; `std::errc::not_enough_memory` when there is no room, near the program or at all; for `perf_map`, what the system reports,
  /// and `std::errc::permission_denied` where the file is somebody else's;
  /// `std::errc::operation_not_supported` on other processors than x86-64.
  [[nodiscard]] static auto create(code_arena_options options = {}) -> result<code_arena>;

  /// An arena of nothing, as is one that was moved from or closed: what is called on it is `errc::closed`.
  code_arena() noexcept;
  code_arena(code_arena&& other) noexcept;
  auto operator=(code_arena&& other) noexcept -> code_arena&;
  ~code_arena();

  [[nodiscard]] auto is_open() const noexcept -> bool;

  /// As found by `create`; `automatic` for an arena of nothing only.
  [[nodiscard]] auto strategy() const noexcept -> code_strategy;

  /// What keeps the code from being changed, in a sentence. Lives as long as the program.
  [[nodiscard]] auto security_level() const noexcept -> std::string_view;

  /// Room for a function of `size` bytes at a multiple of `alignment`, a power of two up to 4 096.
  ///
  /// Errors: `errc::invalid_options` for no bytes, 256 MiB or more, or an alignment that is none;
  /// `errc::reservation_exceeded`; `errc::sealed`; `errc::forked`; `errc::closed`; what the system reports.
  [[nodiscard]] auto allocate(std::size_t size, std::size_t alignment = 16) -> result<code_span>;

  /// Makes `code` the first bytes of a function that is not published yet; behind them are traps. The last call counts. `name` is what
  /// `perf_map` and `debugger` of the options tell of it; without, it is called after its address.
  ///
  /// Errors: `errc::out_of_range` when it is longer; `errc::already_published`; `errc::not_allocated` for a span that is not
  /// this arena's, or not any more; `errc::sealed`; `errc::forked`; `errc::closed`; what the system reports.
  [[nodiscard]] auto write(code_span to, std::span<std::byte const> code, std::string_view name = {}) -> result<void>;

  /// Makes all functions that have been written callable: the flush point. One barrier for all, after which no processor has
  /// anything older of them.
  ///
  /// Errors: what the system reports: then none is published, and all stay as written, for the next call. `errc::sealed`;
  /// `errc::forked`; `errc::closed`.
  [[nodiscard]] auto publish() -> result<void>;

  /// Gives a function up, whether published or not. Its memory becomes traps, and is used again, when every `guard` has ended
  /// that began before.
  ///
  /// Errors: `errc::not_allocated`, also for one that is retired already, unless another one of its size lies there meanwhile;
  /// `errc::in_use` for an object's of an `exec_resource`; `errc::sealed`; `errc::forked`; `errc::closed`.
  [[nodiscard]] auto retire(code_span function) -> result<void>;

  /// Reclaims what is retired and no guard holds back; `retire` and `allocate` do so now and then. Returns how many functions
  /// those were.
  ///
  /// Errors: what the system reports where traps cannot be put: what it was about is reclaimed by a later call.
  /// `errc::sealed`; `errc::forked`; `errc::closed`.
  [[nodiscard]] auto reclaim() -> result<std::size_t>;

  /// The published function that has this address in it, until it is reclaimed; a constant number of steps.
  ///
  /// Safe in a signal handler.
  [[nodiscard]] auto find(void const* address) const noexcept -> std::optional<code_span>;

  /// Publishes what is written, and makes the arena final: nothing can be added, changed or retired, by fmmap or around it.
  ///
  /// Errors: as `publish`; what the system reports when it does not seal.
  [[nodiscard]] auto seal() -> result<void>;
  [[nodiscard]] auto is_sealed() const noexcept -> bool;

  [[nodiscard]] auto stats() const -> code_stats;

  /// All of the address space that code can lie in.
  [[nodiscard]] auto storage() const noexcept -> std::span<std::byte const>;

  /// Unmaps, whatever is still there, and reports what goes wrong. Invalidates: all code.
  [[nodiscard]] auto close() -> result<void>;

  /// While it lives, nothing is reclaimed that was not retired before it began; what was retired while an earlier guard was
  /// held may wait for it too. A thread holds one around its calls of functions that others may retire. Guards may be nested.
  ///
  /// Thread safety: begins and ends on any thread. Of an arena of nothing it guards nothing. Must not outlive the arena.
  class guard {
  public:
    explicit guard(code_arena const& of) noexcept;
    guard(guard const&) = delete;
    auto operator=(guard const&) -> guard& = delete;
    ~guard();

  private:
    arena_state* state_;
    unsigned place_ = 0;
  };

private:
  friend exec_resource;
  explicit code_arena(std::shared_ptr<arena_state> state) noexcept;

  std::shared_ptr<arena_state> state_;
};

} // namespace fmmap
