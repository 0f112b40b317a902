// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.exec;

import fmmap.core;
import fmmap.os;
import :code_memory;
import :machine;

namespace fmmap {

namespace {

constexpr os::protection can_read{};
constexpr os::protection can_write{.read = true, .write = true};
constexpr os::protection can_execute{.read = true, .execute = true};
constexpr os::protection no_access{.read = false};

constexpr os::map_flags own_memory{.shared = false, .anonymous = true};
constexpr os::map_flags address_space{.shared = false, .anonymous = true, .no_reserve = true};

constexpr std::size_t reach = std::size_t{1} << 31; // of a displacement of 32 bits

void report(os::outcome<void> const& done, std::string_view operation) noexcept {
  if (!done) {
    report_dropped_error(error::make({done.error(), std::system_category()}, operation));
  }
}

// A run of the address space, until it is released.
class held_memory {
public:
  held_memory(std::byte* base, std::size_t length) noexcept : base_{base}, length_{length} {}
  held_memory(held_memory&& other) noexcept : base_{std::exchange(other.base_, nullptr)}, length_{other.length_} {}
  auto operator=(held_memory&&) -> held_memory& = delete;
  ~held_memory() {
    if (base_ != nullptr) {
      report(os::unmap(base_, length_), "unmap");
    }
  }

  [[nodiscard]] auto base() const noexcept -> std::byte* { return base_; }
  [[nodiscard]] auto length() const noexcept -> std::size_t { return length_; }
  [[nodiscard]] auto release() noexcept -> std::byte* { return std::exchange(base_, nullptr); }

private:
  std::byte* base_;
  std::size_t length_;
};

auto hold(std::byte* address, std::size_t length) -> os::outcome<held_memory> {
  auto flags = address_space;
  flags.exactly = address != nullptr;
  auto const placed = os::map(address, length, no_access, flags, os::no_descriptor, 0);
  if (!placed) {
    return std::unexpected(placed.error());
  }
  held_memory held{*placed, length};
  if (address != nullptr && *placed != address) { // a system that takes the address for a hint
    return std::unexpected(EEXIST);
  }
  return held;
}

// Below the program first: above it is its heap, which grows.
auto hold_near_text(std::size_t length) -> os::outcome<held_memory> {
  constexpr std::size_t step = std::size_t{16} << 20;
  auto const text = reinterpret_cast<std::uintptr_t>(&machine::probe);
  int why = ENOMEM;
  auto const try_at = [&](std::uintptr_t at) -> std::optional<held_memory> {
    auto held = hold(reinterpret_cast<std::byte*>(at), length);
    if (!held) {
      why = held.error() == EEXIST ? why : held.error();
      return {};
    }
    return std::move(*held);
  };
  auto const lowest = text > reach ? text - reach + step : step;
  // What is small lies side by side, below the last one that was placed, so that there is room for many.
  static constinit std::atomic<std::uintptr_t> last_placed{0};
  if (auto const last = last_placed.load(std::memory_order_relaxed); last >= lowest + length) {
    if (auto held = try_at(last - length); held) {
      last_placed.store(last - length, std::memory_order_relaxed);
      return *std::move(held);
    }
  }
  for (auto at = os::round_down(text - std::min(text, step + length), step); at >= lowest; at -= step) {
    if (auto held = try_at(at); held) {
      last_placed.store(at, std::memory_order_relaxed);
      return *std::move(held);
    }
  }
  for (auto at = os::round_down(text, step) + (2 * step); at + length + step <= text + reach; at += step) {
    if (auto held = try_at(at); held) {
      return *std::move(held);
    }
  }
  return std::unexpected(why);
}

// Behind a page that can be read, and belongs to the memory: a caller that is compiled with -fsanitize=function looks at what is
// before a function.
template <class Memory>
auto take_over(held_memory held) -> std::unique_ptr<Memory> {
  auto made = std::make_unique<Memory>(held.base() + os::page_size(), held.length() - os::page_size());
  (void)held.release();
  return made;
}

// Whether what one way met would be met by the others, too, or has to be known.
auto is_want(int error) noexcept -> bool { return error == ENOMEM || error == EMFILE || error == ENFILE; }

// --- Memory files -------------------------------------------------------------------------------------------------------

// The code is a file in memory, which is mapped for execution by a descriptor that cannot write: so the system refuses to
// make these pages writable, and nobody can by /proc/self/mem.
class memory_file : public code_memory {
public:
  ~memory_file() override { memory_file::forget(); }

  auto grow_to(std::size_t size) -> os::outcome<void> override {
    if (size <= size_) {
      return {};
    }
    auto const added = size - size_;
    // Blocks at once: a page that cannot be had later is SIGBUS.
    if (auto done = os::retry([&] { return os::allocate(file_, size_, added, false); }); !done) {
      return done;
    }
    auto const from = std::exchange(size_, size);
    auto done = fill_with_traps(from, added);
    if (!done) {
      size_ = from;
    }
    return done;
  }

  auto seal() -> os::outcome<void> override {
    constexpr auto final = os::seal_write | os::seal_shrink | os::seal_grow | os::seal_seal;
    auto done = os::add_seals(file_, final);
    if (!done && done.error() == EBUSY) { // mapped by a descriptor that can write
      done = os::add_seals(file_, os::seal_future_write | os::seal_shrink | os::seal_grow | os::seal_seal);
    }
    if (done) {
      memory_file::forget();
    }
    return done;
  }

  auto release() -> os::outcome<void> override {
    memory_file::forget();
    return code_memory::release();
  }

  void forget() noexcept override {
    if (auto const open = std::exchange(file_, os::no_descriptor); open != os::no_descriptor) {
      report(os::close(open), "close");
    }
  }

protected:
  using code_memory::code_memory;

  // Makes the file, and maps it for execution. Returns whether it is by a descriptor that cannot write.
  [[nodiscard]] auto open(bool may_be_writable, bool for_perf) -> os::outcome<bool> {
    auto const made = os::retry([] { return os::memory_file("fmmap-code", true); });
    if (!made) {
      return std::unexpected(made.error());
    }
    file_ = *made;
    auto const reader = os::retry([&] { return os::reopen(file_, {}); });
    if (!reader && (!may_be_writable || is_want(reader.error()))) {
      return std::unexpected(reader.error());
    }
    auto const mapped = for_perf ? map_unseen(reader.value_or(file_)) : map(reader.value_or(file_));
    if (reader) {
      report(os::close(*reader), "close");
    }
    return mapped ? os::outcome<bool>{reader.has_value()} : std::unexpected(mapped.error());
  }

  [[nodiscard]] auto file() const noexcept -> os::descriptor { return file_; }

private:
  [[nodiscard]] auto map(os::descriptor file) -> os::outcome<void> {
    auto const mapped = os::map(base_, reserve_, can_execute, {.replace = true}, file, 0);
    return mapped ? os::outcome<void>{} : std::unexpected(mapped.error());
  }

  // Where perf has seen a file being mapped it looks for names in that. It sees nothing of memory that is moved.
  [[nodiscard]] auto map_unseen(os::descriptor file) -> os::outcome<void> {
    auto const mapped = os::map(nullptr, reserve_, can_execute, {}, file, 0);
    if (!mapped) {
      return std::unexpected(mapped.error());
    }
    held_memory held{*mapped, reserve_};
    auto done = os::move_map(*mapped, reserve_, base_);
    if (done) {
      (void)held.release();
    }
    return done;
  }

  os::descriptor file_ = os::no_descriptor;
};

class unaliased_memory final : public memory_file {
public:
  static auto make(held_memory held, bool for_perf) -> os::outcome<std::unique_ptr<code_memory>> {
    auto made = take_over<unaliased_memory>(std::move(held));
    auto const opened = made->open(false, for_perf);
    return opened ? os::outcome<std::unique_ptr<code_memory>>{std::move(made)} : std::unexpected(opened.error());
  }

  auto strategy() const noexcept -> code_strategy override { return code_strategy::no_alias; }
  auto security_level() const noexcept -> std::string_view override {
    return "no address can write the code, and the system refuses to make one of these pages writable";
  }

  auto put(std::size_t offset, std::span<std::byte const> bytes) -> os::outcome<void> override {
    while (!bytes.empty()) {
      auto const written = os::retry([&] { return os::write_at(file(), offset, bytes); });
      if (!written || *written == 0) {
        return std::unexpected(written ? EIO : written.error());
      }
      offset += *written;
      bytes = bytes.subspan(*written);
    }
    return {};
  }

  using memory_file::memory_file;
};

class dual_memory final : public memory_file {
public:
  static auto make(held_memory held, bool for_perf) -> os::outcome<std::unique_ptr<code_memory>> {
    auto made = take_over<dual_memory>(std::move(held));
    auto const opened = made->open(true, for_perf);
    if (!opened) {
      return std::unexpected(opened.error());
    }
    made->is_unchangeable_ = *opened;
    auto const aliased = made->map_alias();
    return aliased ? os::outcome<std::unique_ptr<code_memory>>{std::move(made)} : std::unexpected(aliased.error());
  }

  ~dual_memory() override { unmap_alias(); }

  auto strategy() const noexcept -> code_strategy override { return code_strategy::dual; }
  auto gathers() const noexcept -> bool override { return false; }
  auto security_level() const noexcept -> std::string_view override {
    if (alias_ == nullptr) {
      return "no address can write the code, which is sealed";
    }
    return is_unchangeable_ ? "the code can be written at another address, until it is sealed, and the system refuses "
                              "to make these pages "
                              "writable"
                            : "the code can be written at another address, until it is sealed, and these pages could "
                              "be made writable, "
                              "as there is no /proc to keep them from it";
  }

  auto put(std::size_t offset, std::span<std::byte const> bytes) -> os::outcome<void> override {
    std::memcpy(alias_ + offset, bytes.data(), bytes.size());
    return {};
  }

  auto seal() -> os::outcome<void> override {
    unmap_alias();
    return memory_file::seal();
  }

  auto release() -> os::outcome<void> override {
    unmap_alias();
    return memory_file::release();
  }

  // The child never had the alias, and may have something else there.
  void forget() noexcept override {
    alias_ = nullptr;
    memory_file::forget();
  }

  using memory_file::memory_file;

private:
  // A page that is inaccessible before and behind it: it is not run into from elsewhere.
  auto map_alias() -> os::outcome<void> {
    auto const page = os::page_size();
    auto held = hold(nullptr, reserve() + (2 * page));
    if (!held) {
      return std::unexpected(held.error());
    }
    auto const mapped = os::map(held->base() + page, reserve(), can_write, {.replace = true}, file(), 0);
    if (!mapped) {
      return std::unexpected(mapped.error());
    }
    if (auto done = os::advise(*mapped, reserve(), os::advice_value::dont_fork); !done) {
      return done;
    }
    alias_ = *mapped;
    (void)held->release();
    return {};
  }

  void unmap_alias() noexcept {
    if (auto* const alias = std::exchange(alias_, nullptr); alias != nullptr) {
      auto const page = os::page_size();
      report(os::unmap(alias - page, reserve() + (2 * page)), "unmap");
    }
  }

  bool is_unchangeable_ = false;
  std::byte* alias_ = nullptr;
};

// --- Pages that are moved into place ------------------------------------------------------------------------------------

// A page with code in it is never made writable: another one is built elsewhere, made executable, and moved over it, which
// other threads see as one step.
//
// Pages that were moved on their own are mappings of their own, of which the system allows a limited number. Fewer are used, so that
// pages can still be replaced when their code is given up.
class toggled_memory final : public code_memory {
public:
  static auto make(held_memory held) -> os::outcome<std::unique_ptr<code_memory>> {
    return take_over<toggled_memory>(std::move(held));
  }

  auto strategy() const noexcept -> code_strategy override { return code_strategy::toggle; }
  auto security_level() const noexcept -> std::string_view override {
    return "pages are writable before they are executable, and the system would make them writable again";
  }

  auto grow_to(std::size_t size) -> os::outcome<void> override {
    if (size <= size_) {
      return {};
    }
    auto const added = size - size_;
    auto done =
        replace(size_, added, [&](std::byte* page) { std::memset(page, std::to_integer<int>(machine::trap), added); });
    if (done) {
      size_ = size;
    }
    return done;
  }

  auto put(std::size_t offset, std::span<std::byte const> bytes) -> os::outcome<void> override {
    auto const pages = os::outward({.begin = offset, .end = offset + bytes.size()}, os::page_size());
    auto const length = static_cast<std::size_t>(pages.length());
    return replace(static_cast<std::size_t>(pages.begin), length, [&](std::byte* made) {
      std::memcpy(made, base() + pages.begin, length);
      std::memcpy(made + (offset - pages.begin), bytes.data(), bytes.size());
    });
  }

  auto may_put_a_part() const noexcept -> bool override { return false; }
  auto seal() -> os::outcome<void> override { return {}; }

  using code_memory::code_memory;

private:
  static constexpr std::size_t few = 1024; // edges of mappings

  template <class Build>
  auto replace(std::size_t offset, std::size_t length, Build build) -> os::outcome<void> {
    auto const first = offset / os::page_size();
    auto const last = first + (length / os::page_size());
    auto const inside =
        static_cast<std::size_t>(std::ranges::count(edges_.begin() + static_cast<std::ptrdiff_t>(first) + 1,
                                                    edges_.begin() + static_cast<std::ptrdiff_t>(last), true));
    auto const at_ends = (edges_[first] ? 0U : 1U) + (edges_[last] ? 0U : 1U);
    if (at_ends > inside && edge_count_ >= few && edge_count_ + at_ends - inside > most_edges()) {
      return std::unexpected(ENOMEM);
    }
    auto const made = os::map(nullptr, length, can_write, own_memory, os::no_descriptor, 0);
    if (!made) {
      return std::unexpected(made.error());
    }
    held_memory held{*made, length};
    build(*made);
    if (auto done = os::protect(*made, length, can_execute); !done) {
      return done;
    }
    auto done = os::move_map(*made, length, base_ + offset);
    if (done) {
      (void)held.release();
      std::fill(edges_.begin() + static_cast<std::ptrdiff_t>(first),
                edges_.begin() + static_cast<std::ptrdiff_t>(last) + 1, false);
      edges_[first] = true;
      edges_[last] = true;
      edge_count_ = edge_count_ + at_ends - inside;
    }
    return done;
  }

  auto most_edges() -> std::size_t {
    if (!most_edges_) {
      auto const left = os::count_mappings_left();
      if (!left) {
        report(std::unexpected(left.error()), "count mappings");
      }
      most_edges_ = edge_count_ + left.value_or(os::default_mappings / 2);
    }
    return *most_edges_;
  }

  // By page, whether a mapping ends and another one begins there.
  std::vector<bool> edges_ = std::vector<bool>((reserve() / os::page_size()) + 1);
  std::size_t edge_count_ = 0;
  std::optional<std::size_t> most_edges_;
};

// --- Which ----------------------------------------------------------------------------------------------------------------

// Runs a function there. Leaves traps.
auto runs_code(code_memory& memory) -> os::outcome<void> {
  if (auto done = memory.grow_to(std::min(memory.reserve(), os::page_size())); !done) {
    return done;
  }
  if (auto done = memory.put(0, machine::probe); !done) {
    return done;
  }
  if (auto done = code_barrier(); !done) {
    return done;
  }
  auto const probe = reinterpret_cast<int (*)()>(reinterpret_cast<std::uintptr_t>(memory.base()));
  if (std::memcmp(memory.base(), machine::probe.data(), machine::probe.size()) != 0 ||
      probe() != machine::probe_answer) {
    return std::unexpected(EOPNOTSUPP);
  }
  return memory.fill_with_traps(0, machine::probe.size());
}

// perf takes its list of names for memory that it has seen becoming executable and that is no file's.
auto show_to_perf(held_memory const& held) -> os::outcome<void> {
  for (auto const access : {can_execute, no_access}) {
    auto flags = address_space;
    flags.replace = true;
    if (auto const shown = os::map(held.base(), held.length(), access, flags, os::no_descriptor, 0); !shown) {
      return std::unexpected(shown.error());
    }
  }
  return {};
}

auto hold_for(code_memory::request const& wanted) -> os::outcome<held_memory> {
  auto const length = wanted.reserve + os::page_size();
  auto held = wanted.near_text ? hold_near_text(length) : hold(nullptr, length);
  if (held && wanted.for_perf) {
    if (auto const done = show_to_perf(*held); !done) {
      return std::unexpected(done.error());
    }
  }
  if (held) {
    if (auto const done = os::protect(held->base(), os::page_size(), can_read); !done) {
      return std::unexpected(done.error());
    }
  }
  return held;
}

auto make_one(code_strategy strategy, held_memory held, bool for_perf) -> os::outcome<std::unique_ptr<code_memory>> {
  auto made = strategy == code_strategy::dual     ? dual_memory::make(std::move(held), for_perf)
              : strategy == code_strategy::toggle ? toggled_memory::make(std::move(held))
                                                  : unaliased_memory::make(std::move(held), for_perf);
  if (made) {
    if (auto const ran = runs_code(**made); !ran) {
      return std::unexpected(ran.error());
    }
  }
  return made;
}

} // namespace

code_memory::~code_memory() { report(code_memory::release(), "unmap"); }

auto code_memory::release() -> os::outcome<void> {
  auto* const base = std::exchange(base_, nullptr);
  return base == nullptr ? os::outcome<void>{} : os::unmap(base - os::page_size(), reserve_ + os::page_size());
}

auto code_memory::fill_with_traps(std::size_t offset, std::size_t length) -> os::outcome<void> {
  static constexpr auto traps = [] {
    std::array<std::byte, std::size_t{64} * 1024> all{};
    all.fill(machine::trap);
    return all;
  }();
  while (length > 0) {
    auto const now = std::min(length, traps.size());
    if (auto done = put(offset, std::span{traps}.first(now)); !done) {
      return done;
    }
    offset += now;
    length -= now;
  }
  return {};
}

auto code_memory::make(request const& wanted) -> result<std::unique_ptr<code_memory>> {
  if (!machine::is_known) {
    return std::unexpected(error::make(std::make_error_code(std::errc::operation_not_supported), "make memory for code",
                                       {}, {}, "fmmap knows the code of x86-64 only"));
  }
  int why = EOPNOTSUPP;
  for (auto const strategy : {code_strategy::no_alias, code_strategy::dual, code_strategy::toggle}) {
    if (is_want(why) || (wanted.strategy != code_strategy::automatic && wanted.strategy != strategy)) {
      continue;
    }
    auto held = hold_for(wanted);
    if (!held) {
      auto const is_near = wanted.near_text && held.error() == ENOMEM;
      return std::unexpected(
          error::make({held.error(), std::system_category()}, "make memory for code", {}, {},
                      is_near ? "there has to be room within 2 GiB of the program; near_text = false asks for less"
                              : "the reserve is address space"));
    }
    auto made = make_one(strategy, std::move(*held), wanted.for_perf);
    if (made) {
      return std::move(*made);
    }
    why = made.error();
  }
  return std::unexpected(error::make({why, std::system_category()}, "make memory for code", {}, {},
                                     is_want(why) ? "automatic looks no further where memory or descriptors run out"
                                     : wanted.strategy == code_strategy::automatic
                                         ? "no strategy works here"
                                         : "the strategy does not work here; automatic takes one that does"));
}

// --- The barrier ----------------------------------------------------------------------------------------------------------

namespace {

// Writing to a page and taking the permission back makes the system interrupt every processor that runs the process.
auto interrupt_all() -> os::outcome<void> {
  static constinit std::mutex one_at_a_time;
  std::scoped_lock const lock{one_at_a_time};
  auto const page = os::map(nullptr, os::page_size(), can_write, own_memory, os::no_descriptor, 0);
  if (!page) {
    return std::unexpected(page.error());
  }
  held_memory const held{*page, os::page_size()};
  **page = std::byte{1};
  return os::protect(*page, os::page_size(), can_read);
}

} // namespace

auto code_barrier() -> os::outcome<void> {
  auto done = os::synchronize_code();
  if (!done && done.error() == EPERM) { // not registered yet; a child of a fork is as its parent
    if (os::register_to_synchronize_code()) {
      done = os::synchronize_code();
    }
  }
  return done ? done : interrupt_all();
}

} // namespace fmmap
