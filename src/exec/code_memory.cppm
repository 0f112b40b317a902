// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

// Address space that code lies in, and the way bytes come into it. Implementation units only.
module fmmap.exec:code_memory;

import fmmap.core;
import fmmap.os;
import :code_arena;

namespace fmmap {

// Nobody may change the same bytes at the same time; of what is different, any thread may.
class code_memory {
public:
  struct request {
    std::size_t reserve; // in whole pages
    code_strategy strategy;
    bool near_text;
    bool for_perf = false; // so that perf looks for names in its list
  };

  // One that has run code. Errors: as `code_arena::create`.
  [[nodiscard]] static auto make(request const& wanted) -> result<std::unique_ptr<code_memory>>;

  code_memory(std::byte* base, std::size_t reserve) noexcept : base_{base}, reserve_{reserve} {}
  code_memory(code_memory const&) = delete;
  auto operator=(code_memory const&) -> code_memory& = delete;
  virtual ~code_memory();

  [[nodiscard]] inline auto base() const noexcept -> std::byte const* { return base_; }
  [[nodiscard]] inline auto reserve() const noexcept -> std::size_t { return reserve_; }
  [[nodiscard]] virtual auto strategy() const noexcept -> code_strategy = 0;
  [[nodiscard]] virtual auto security_level() const noexcept -> std::string_view = 0;

  // Whether each `put` is so expensive that one of neighbours together is worth gathering them.
  [[nodiscard]] virtual auto gathers() const noexcept -> bool { return true; }

  // Makes the first `size` bytes, whole pages, usable, those that are new full of traps. One thread at a time.
  [[nodiscard]] virtual auto grow_to(std::size_t size) -> os::outcome<void> = 0;

  // Makes bytes that are usable others. Where that fails, some may be, if `may_put_a_part`.
  [[nodiscard]] virtual auto put(std::size_t offset, std::span<std::byte const> bytes) -> os::outcome<void> = 0;
  [[nodiscard]] virtual auto may_put_a_part() const noexcept -> bool { return true; }
  [[nodiscard]] auto fill_with_traps(std::size_t offset, std::size_t length) -> os::outcome<void>;

  // From then on `put` is not called any more, and nobody can change the bytes.
  [[nodiscard]] virtual auto seal() -> os::outcome<void> = 0;

  // In a forked child: gives up what the parent's code could be changed by. As safe as a signal handler.
  virtual void forget() noexcept {}

  // Gives everything back, before it is destroyed.
  [[nodiscard]] virtual auto release() -> os::outcome<void>;

protected:
  std::byte* base_;
  std::size_t reserve_;
  std::size_t size_ = 0; // what is usable
};

// Makes every thread of the process execute what is in memory, and nothing it has prefetched: membarrier(2), or a change of
// protection, which interrupts all of them, where that is not to be had.
[[nodiscard]] auto code_barrier() -> os::outcome<void>;

} // namespace fmmap
