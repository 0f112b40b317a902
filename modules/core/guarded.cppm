// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <concepts>
#include <cstddef>
#include <exception>
#include <expected>
#include <functional>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

export module fmmap.core:guarded;

import :error;

namespace fmmap {

// Calls `work(context)`, which must not throw, and returns the error of a fault in `memory` that ended it.
[[nodiscard]] auto run_guarded(std::span<std::byte const> memory, bool writing, void (*work)(void*) noexcept,
                               void* context) -> result<void>;

// Calls `work` with `memory` under a guard; what it throws passes through.
template <class Byte, class Work>
auto call_guarded(std::span<Byte> memory, Work& work) -> result<std::invoke_result_t<Work&, std::span<Byte>>> {
  using value = std::invoke_result_t<Work&, std::span<Byte>>;
  struct call {
    std::span<Byte> memory;
    Work* work;
    std::optional<result<value>> outcome;
    std::exception_ptr thrown;
  } context{memory, &work, {}, {}};
  auto const done = run_guarded(
      memory, !std::is_const_v<Byte>,
      [](void* opaque) noexcept {
        auto& made = *static_cast<call*>(opaque);
        try {
          if constexpr (std::is_void_v<value>) {
            std::invoke(*made.work, made.memory);
            made.outcome.emplace();
          } else {
            made.outcome.emplace(std::invoke(*made.work, made.memory));
          }
        } catch (...) {
          made.thrown = std::current_exception();
        }
      },
      &context);
  if (!done) [[unlikely]] {
    return std::unexpected(done.error());
  }
  if (context.thrown) {
    std::rethrow_exception(context.thrown);
  }
  return *std::move(context.outcome);
}

// What work is given of memory: writable where that is.
template <class Memory>
using guarded_span = std::conditional_t<std::convertible_to<Memory, std::span<std::byte>>, std::span<std::byte>,
                                        std::span<std::byte const>>;

} // namespace fmmap

export namespace fmmap {

/// Copies `from`, bytes of a mapping, to `to`, which has room for them in ordinary memory.
///
/// What would raise SIGBUS is an error: another process has made the file shorter, or its device has failed. `to` then holds
/// a part of the bytes, or none.
///
/// Errors: `errc::truncated`; `errc::device_fault`; `std::errc::no_space_on_device` on file systems where reading a hole takes a
/// page (tmpfs); `errc::out_of_range` when `to` is too small; as `install_fault_handler`.
/// Thread safety: as `guarded`; also while another thread makes the file shorter.
[[nodiscard]] auto guarded_copy_out(std::span<std::byte const> from, std::span<std::byte> to) -> result<void>;

/// Copies `from`, ordinary memory, to `to`, bytes of a mapping, as `guarded_copy_out` does the other way.
///
/// Errors: as `guarded_copy_out`; also `std::errc::no_space_on_device` where a page of `to` has no block and none is left.
[[nodiscard]] auto guarded_copy_in(std::span<std::byte const> from, std::span<std::byte> to) -> result<void>;

/// Calls `work` with `memory`, bytes of a mapping, and returns what it returns; a fault in `memory` ends it with an error.
///
/// It is then left where it was, as by longjmp: no destructor runs. So at the time of an access to `memory` it must not own
/// anything (memory, a lock, a file), and neither may what it calls: copy out, compare, sum, parse into variables outside.
/// Nor may it suspend a coroutine, or return later what refers to `memory` unguarded. What it throws passes through. Guards
/// may be nested. Work that writes is given a span of `std::byte`, not const.
///
/// Faults elsewhere, and those of other threads, go to the handler that was there before. So do faults while the system itself
/// reads or writes `memory` in a system call: that fails with EFAULT.
///
/// Errors: `errc::truncated`; `errc::device_fault`; `std::errc::no_space_on_device`; as `install_fault_handler`.
/// Thread safety: any thread that does not block SIGBUS, which the system answers with death; not in a signal handler that
/// may interrupt an allocation, since an error is one.
template <std::convertible_to<std::span<std::byte const>> Memory, class Work>
  requires std::invocable<Work&, guarded_span<Memory>>
[[nodiscard]] auto guarded(Memory&& memory, Work work) -> result<std::invoke_result_t<Work&, guarded_span<Memory>>> {
  return call_guarded(guarded_span<Memory>{memory}, work);
}

/// Sets the process's handler of SIGBUS to the one that guards need, unless it is that already. The first guard does so by
/// itself; call it again after something else, such as a test framework, has set a handler since.
///
/// Signals that no guard waits for are passed on to the handler that was there before, or kill the process as they would have.
///
/// Errors: what sigaction(2) reports.
/// Thread safety: any thread. The handler is the whole process's.
/// Fork: the child has it too, also within a guard. In a process with several threads call this before the fork. Exec: gone.
[[nodiscard]] auto install_fault_handler() -> result<void>;

} // namespace fmmap
