// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <iostream>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/reference.hpp"
#include "support/scratch.hpp"

import fmmap.core;

using fmmap::access;
using fmmap::byte_range;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::mapped_file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

using bytes_view = std::span<std::byte const>;
using wide = unsigned __int128;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t far = std::uint64_t{1} << 32;

// More is neither copied nor written: a sparse file would become a full one.
constexpr std::uint64_t much = 16 * page;

constexpr std::array<std::uint64_t, 7> sizes{0, 1, 11, page - 1, page, page + 1, (3 * page) + 100};

struct record {
  std::uint32_t a;
  std::uint16_t b;
  std::uint8_t c;
  std::uint8_t d;
  std::uint64_t e;
};

struct triple {
  std::array<std::uint8_t, 3> bytes;
};

// --- what is right, in numbers that cannot overflow ---

// The bytes that a range has inside `size` bytes; nothing when it reaches outside.
auto length_within(std::uint64_t size, byte_range range) -> std::optional<std::uint64_t> {
  if (range.length == SIZE_MAX) {
    return range.offset <= size ? std::optional{size - range.offset} : std::nullopt;
  }
  return wide{range.offset} + range.length <= size ? std::optional{std::uint64_t{range.length}} : std::nullopt;
}

auto fits(std::uint64_t size, byte_range range) -> bool { return length_within(size, range).has_value(); }

// The whole pages inside [begin, begin + length).
auto pages_inside(std::uint64_t begin, std::uint64_t length) -> byte_range {
  auto const first = (begin + page - 1) / page * page;
  auto const end = (begin + length) / page * page;
  return {.offset = first, .length = first < end ? end - first : 0};
}

// The errors that apply to a call; none when it is to succeed. Of several, any may be reported.
class verdict {
public:
  auto refuse_if(bool holds, errc code) -> verdict& {
    codes_ |= holds ? 1U << static_cast<unsigned>(code) : 0U;
    return *this;
  }
  [[nodiscard]] auto accepts() const -> bool { return codes_ == 0; }
  [[nodiscard]] auto allows(std::error_code code) const -> bool {
    return code.category() == fmmap::errc_category() && (codes_ >> static_cast<unsigned>(code.value()) & 1U) != 0;
  }

private:
  std::uint32_t codes_ = 0;
};

auto within(std::uint64_t size, byte_range range) -> verdict {
  return verdict{}.refuse_if(!fits(size, range), errc::out_of_range);
}

// Where a length is a length, to the end or not.
auto exactly_within(std::uint64_t size, byte_range range) -> verdict {
  return within(size, range).refuse_if(range.length == SIZE_MAX, errc::out_of_range);
}

// What a file holds: `holes` zeros, and then `bytes`.
struct content {
  std::uint64_t holes = 0;
  std::vector<std::byte> bytes;

  [[nodiscard]] auto size() const -> std::uint64_t { return holes + bytes.size(); }

  [[nodiscard]] auto at(std::uint64_t offset) const -> std::byte {
    return offset < holes ? std::byte{0} : bytes[offset - holes];
  }

  [[nodiscard]] auto part(std::uint64_t offset, std::size_t length) const -> std::vector<std::byte> {
    std::vector<std::byte> found(length);
    auto const zeros = offset < holes ? std::min<std::uint64_t>(length, holes - offset) : 0;
    auto const from = bytes.begin() + static_cast<std::ptrdiff_t>(std::max(offset, holes) - holes);
    std::copy_n(from, length - zeros, found.begin() + static_cast<std::ptrdiff_t>(zeros));
    return found;
  }

  // Whether `seen` is what begins at `offset`; of much, only the ends are looked at.
  [[nodiscard]] auto is_at(std::uint64_t offset, bytes_view seen) const -> bool {
    auto const looked = std::min<std::uint64_t>(seen.size(), much);
    return same_bytes(seen.first(looked), part(offset, looked)) &&
           same_bytes(seen.last(looked), part(offset + (seen.size() - looked), looked));
  }
};

// The part of a file that is seen through a handle.
struct window {
  content const* of;
  std::uint64_t base = 0;
  std::uint64_t size = 0;

  [[nodiscard]] auto is_at(std::uint64_t offset, bytes_view seen) const -> bool {
    return of->is_at(base + offset, seen);
  }

  [[nodiscard]] auto part(std::uint64_t offset, std::size_t length) const -> std::vector<std::byte> {
    return of->part(base + offset, length);
  }

  // Whether a type with this alignment may lie at `offset`. Pages of the file are pages of memory, and nothing is empty
  // somewhere.
  [[nodiscard]] auto is_aligned(std::uint64_t offset, std::size_t alignment) const -> bool {
    return size == 0 || (base + offset) % alignment == 0;
  }
};

// --- the combinations ---

auto offsets_for(std::uint64_t size) -> std::set<std::uint64_t> {
  auto const limit = std::uint64_t{1} << 63;
  return {0,    1,        11,  page - 1,  page,  page + 1,       2 * page,  size == 0 ? 0 : size - 1,
          size, size + 1, far, limit - 1, limit, UINT64_MAX - 1, UINT64_MAX};
}

auto lengths_for(std::uint64_t size, std::uint64_t offset) -> std::set<std::size_t> {
  auto const rest = offset < size ? size - offset : 0;
  return {0, 1, 7, page - 1, page, page + 1, 2 * page, rest, rest + 1, SIZE_MAX / 3, SIZE_MAX - 1, SIZE_MAX};
}

template <class Act>
void for_each_range(std::uint64_t size, Act act) {
  for (auto const offset : offsets_for(size)) {
    for (auto const length : lengths_for(size, offset)) {
      act(byte_range{.offset = offset, .length = length});
    }
  }
}

template <class Act>
void for_each_number(Act act) {
  act(std::type_identity<std::uint8_t>{});
  act(std::type_identity<std::int16_t>{});
  act(std::type_identity<std::uint32_t>{});
  act(std::type_identity<float>{});
  act(std::type_identity<std::int64_t>{});
  act(std::type_identity<double>{});
  act(std::type_identity<unsigned __int128>{});
}

template <class Act>
void for_each_type(Act act) {
  for_each_number(act);
  act(std::type_identity<record>{});
  act(std::type_identity<triple>{});
}

// Counts the combinations, and names the first few that come out wrong.
class permutation {
public:
  permutation() = default;
  permutation(permutation const&) = delete;
  auto operator=(permutation const&) -> permutation& = delete;
  ~permutation() { std::cout << "combinations " << count_ << std::endl; }

  void handle(std::string_view name, std::uint64_t file_size, byte_range mapped = fmmap::whole) {
    handle_ = name;
    file_size_ = file_size;
    mapped_ = mapped;
  }

  void next(std::string_view operation, byte_range request) {
    ++count_;
    operation_ = operation;
    request_ = request;
  }

  void expect(bool holds, std::string_view what) {
    if (holds) {
      return;
    }
    BOOST_ERROR(handle_ << " of a file of " << file_size_ << " bytes, range " << text_of_range(mapped_) << ": "
                        << operation_ << ' ' << text_of_range(request_) << ": " << what);
    if (++wrong_ == 5) {
      throw std::runtime_error("that is enough");
    }
  }

  // Says whether the outcome is a success, which it is to be.
  template <class T>
  auto expect(fmmap::result<T> const& outcome, verdict const& right) -> bool {
    if (outcome.has_value() != right.accepts()) {
      expect(false, outcome ? "was not refused" : outcome.error().message());
    } else if (!outcome && !right.allows(outcome.error().code())) {
      expect(false, "another error: " + outcome.error().message());
    }
    return outcome.has_value() && right.accepts();
  }

private:
  static auto text_of_range(byte_range range) -> std::string {
    return '[' + std::to_string(range.offset) + ", +" +
           (range.length == SIZE_MAX ? "to the end" : std::to_string(range.length)) + ')';
  }

  std::string_view handle_;
  std::uint64_t file_size_ = 0;
  byte_range mapped_;
  std::string_view operation_;
  byte_range request_;
  std::uint64_t count_ = 0;
  int wrong_ = 0;
};

// --- reading ---

template <class F>
void read_parts(permutation& p, F const& f, window const& seen, byte_range range) {
  auto const length = length_within(seen.size, range);
  auto const right = within(seen.size, range);
  p.next("bytes", range);
  if (auto const got = f.bytes(range.offset, range.length); p.expect(got, exactly_within(seen.size, range))) {
    p.expect(got->size() == *length && seen.is_at(range.offset, *got), "other bytes");
    p.expect(got->data() == f.bytes().data() + range.offset, "bytes elsewhere");
  }
  p.next("reader", range);
  if (auto const got = f.reader(range); p.expect(got, right)) {
    p.expect(got->size() == *length && seen.is_at(range.offset, got->rest()), "other bytes");
  }
  if (!length || *length <= much) {
    p.next("to_vector", range);
    if (auto const got = f.to_vector(range); p.expect(got, right)) {
      p.expect(got->size() == *length && seen.is_at(range.offset, *got), "other bytes");
    }
  }
}

template <class F>
void read_into_a_buffer(permutation& p, F const& f, window const& seen, byte_range range) {
  static std::array<std::byte, much> buffer;
  if (range.length > much) {
    return;
  }
  auto const out = std::span{buffer}.first(range.length);
  p.next("read_at", range);
  auto const there = range.offset < seen.size ? std::min<std::uint64_t>(seen.size - range.offset, range.length) : 0;
  p.expect(f.read_at(range.offset, out) == there, "another number of bytes");
  p.expect(there == 0 || seen.is_at(range.offset, out.first(there)), "other bytes");
  p.next("read_exactly", range);
  if (p.expect(f.read_exactly(range.offset, out), within(seen.size, range))) {
    p.expect(seen.is_at(range.offset, out), "other bytes");
  }
}

template <class F>
void view_objects(permutation& p, F const& f, window const& seen, byte_range counted) {
  for_each_type([&]<class T>(std::type_identity<T>) {
    auto const rest = counted.offset <= seen.size ? seen.size - counted.offset : 0;
    auto const length = counted.length == SIZE_MAX ? wide{(rest + sizeof(T) - 1) / sizeof(T)} * sizeof(T)
                                                   : wide{counted.length} * sizeof(T);
    auto const right = verdict{}
                           .refuse_if(counted.offset + length > seen.size, errc::out_of_range)
                           .refuse_if(length > 0 && !seen.is_aligned(counted.offset, alignof(T)), errc::misaligned);
    p.next("view", counted);
    if (auto const got = counted.length == SIZE_MAX ? f.template view<T>(counted.offset)
                                                    : f.template view<T>(counted.offset, counted.length);
        p.expect(got, right)) {
      p.expect(got->size() * sizeof(T) == length, "another number of objects");
      p.expect(seen.is_at(counted.offset, std::as_bytes(*got)), "other objects");
    }
  });
}

template <class T>
void read_a_number(permutation& p, auto const& f, window const& seen, byte_range range) {
  for (auto const order : {std::endian::little, std::endian::big}) {
    p.next(order == std::endian::little ? "read_le" : "read_be", range);
    auto const got =
        order == std::endian::little ? f.template read_le<T>(range.offset) : f.template read_be<T>(range.offset);
    if (p.expect(got, within(seen.size, range))) {
      auto const right = number_from<T>(seen.part(range.offset, sizeof(T)), order);
      p.expect(has_bytes(*got, std::as_bytes(std::span{&right, 1})), "another number");
    }
  }
}

template <class F>
void read_objects(permutation& p, F const& f, window const& seen, std::uint64_t offset) {
  for_each_type([&]<class T>(std::type_identity<T>) {
    byte_range const range{.offset = offset, .length = sizeof(T)};
    p.next("read", range);
    if (auto const got = f.template read<T>(offset); p.expect(got, within(seen.size, range))) {
      p.expect(has_bytes(*got, seen.part(offset, sizeof(T))), "another object");
    }
  });
  for_each_number(
      [&]<class T>(std::type_identity<T>) { read_a_number<T>(p, f, seen, {.offset = offset, .length = sizeof(T)}); });
}

template <class F>
void read_everything(permutation& p, F const& f, window const& seen) {
  for (auto const offset : offsets_for(seen.size)) {
    read_objects(p, f, seen, offset);
  }
  for_each_range(seen.size, [&](byte_range range) {
    read_parts(p, f, seen, range);
    read_into_a_buffer(p, f, seen, range);
    view_objects(p, f, seen, range);
  });
}

// Each copy is a file of its own: only of some ranges.
template <class F>
void copy_parts(permutation& p, F const& f, window const& seen, scratch const& s) {
  for_each_range(seen.size, [&](byte_range range) {
    auto const length = length_within(seen.size, range);
    if (length && *length > much) {
      return;
    }
    p.next("copy_to", range);
    auto const path = s / "copy";
    if (p.expect(f.copy_to(path, range), within(seen.size, range))) {
      p.expect(seen.is_at(range.offset, bytes_of(read_back(path))), "other bytes");
    }
    p.expect(std::filesystem::exists(path) == length.has_value(), "a copy is missing, or one is left");
    std::filesystem::remove(path);
  });
}

// --- mapping ---

// Whether bytes of a file here may be executed.
auto may_execute(scratch const& s) -> bool {
  if (mapped_file::open_executable(s.file("probe", "x")).has_value()) {
    return true;
  }
  std::cout << "SKIP: executable mappings: the file system is mounted noexec" << std::endl;
  return false;
}

struct map_kind {
  std::string_view name;
  fmmap::access opened;
  fmmap::access mapped;
  bool executable = false;
};

constexpr std::array<map_kind, 10> map_kinds{{
    {.name = "read-only mapping", .opened = access::read_only, .mapped = access::read_only},
    {.name = "read-only mapping of a writable file", .opened = access::read_write, .mapped = access::read_only},
    {.name = "mapping for writing", .opened = access::read_write, .mapped = access::read_write},
    {.name = "mapping for writing of a read-only file", .opened = access::read_only, .mapped = access::read_write},
    {.name = "copy-on-write mapping", .opened = access::read_only, .mapped = access::copy_on_write},
    {.name = "copy-on-write mapping of a writable file", .opened = access::read_write, .mapped = access::copy_on_write},
    {.name = "executable mapping", .opened = access::read_only, .mapped = access::read_only, .executable = true},
    {.name = "executable mapping of a writable file",
     .opened = access::read_write,
     .mapped = access::read_only,
     .executable = true},
    {.name = "executable mapping for writing",
     .opened = access::read_write,
     .mapped = access::read_write,
     .executable = true},
    {.name = "executable copy-on-write mapping",
     .opened = access::read_only,
     .mapped = access::copy_on_write,
     .executable = true},
}};

auto verdict_of_mapping(map_kind const& kind, std::uint64_t size, byte_range range) -> verdict {
  auto const writes = kind.mapped != access::read_only;
  auto const reaches_the_file = kind.mapped == access::read_write;
  return within(size, range)
      .refuse_if(kind.executable && writes, errc::writable_and_executable)
      .refuse_if(reaches_the_file && kind.opened == access::read_only, errc::read_only);
}

// A file, what it holds, and how it is made so again.
struct original {
  std::filesystem::path path;
  content holds;

  void restore() const {
    auto f = or_throw(file::open(path, {.access = access::read_write}));
    or_throw(f.resize(holds.size()));
    or_throw(f.write_at(holds.holes, holds.bytes));
  }
};

auto make_original(scratch const& s, std::uint64_t size, std::uint64_t holes = 0) -> original {
  auto const text = pattern(size - holes, size);
  auto const path = s / ("f" + std::to_string(size));
  original made{.path = path, .holds = {.holes = holes, .bytes = {bytes_of(text).begin(), bytes_of(text).end()}}};
  (void)or_throw(file::create_new(path));
  made.restore();
  return made;
}

void read_mapped_files(permutation& p, original const& from, bool executable) {
  auto const size = from.holds.size();
  for_each_range(size, [&](byte_range range) {
    p.handle(executable ? "executable mapped_file" : "mapped_file", size, range);
    p.next("open", range);
    auto const f = executable ? mapped_file::open_executable(from.path, {.range = range})
                              : mapped_file::open(from.path, {.range = range});
    if (!p.expect(f, within(size, range))) {
      return;
    }
    auto const length = *length_within(size, range);
    p.expect(f->size() == length && from.holds.is_at(range.offset, f->bytes()), "other bytes");
    p.expect(f->is_executable() == executable, "executable or not");
    read_everything(p, *f, {.of = &from.holds, .base = range.offset, .size = length});
  });
}

// --- what a mapping does with a range ---

// Calls that ask something of a range, or keep it.
void use_range(permutation& p, mapping const& m, window const& seen, byte_range range) {
  auto const right = within(seen.size, range);
  auto const length = length_within(seen.size, range);
  p.next("mapping::bytes", range);
  if (auto const got = m.bytes(range); p.expect(got, right)) {
    p.expect(got->size() == *length && seen.is_at(range.offset, *got), "other bytes");
  }
  p.next("share", range);
  if (auto const got = m.share(range); p.expect(got, right)) {
    p.expect(got->bytes().size() == *length && seen.is_at(range.offset, got->bytes()), "other bytes");
  }
  p.next("advise", range);
  p.expect(m.advise(fmmap::advice::random, range), right);
  if (!length || *length <= much) {
    p.next("residency", range);
    if (auto const got = m.residency(range); p.expect(got, right)) {
      p.expect(got->resident_bytes % page == 0 && got->resident_bytes <= *length + 2 * page, "too much is resident");
    }
    p.next("lock_memory", range);
    if (auto const got = m.lock_memory(range); p.expect(got, right)) {
      p.expect(got->bytes().size() >= *length && got->bytes().size() < *length + 2 * page, "another length is locked");
    }
  }
}

void flush_range(permutation& p, mapping& m, map_kind const& kind, window const& seen, byte_range range) {
  auto const copy = kind.mapped == access::copy_on_write;
  auto const right = within(seen.size, range).refuse_if(copy, errc::copy_on_write);
  for (auto const level : {durability::none, durability::started, durability::data}) {
    p.next("flush", range);
    if (auto const reached = m.flush(range, level); p.expect(reached, right)) {
      p.expect(*reached >= level, "less was reached");
    }
  }
  p.next("stage_flush", range);
  p.expect(m.stage_flush(range), right);
  auto const length = length_within(seen.size, range);
  if (!length || *length <= much) {
    p.next("rewrite", range);
    p.expect(m.rewrite(range), verdict{right}.refuse_if(kind.mapped == access::read_only, errc::read_only));
  }
  p.expect(seen.is_at(0, m.bytes()), "other bytes");
}

void discard_range(permutation& p, mapping& m, map_kind const& kind, original const& from, window const& seen,
                   byte_range range) {
  auto const copy = kind.mapped == access::copy_on_write;
  auto const right = within(seen.size, range).refuse_if(!copy && kind.opened == access::read_only, errc::read_only);
  p.next("discard", range);
  if (!p.expect(m.discard(range), right) || copy) { // a copy that was not written reads as the file all the same
    return p.expect(seen.is_at(0, m.bytes()), "other bytes");
  }
  auto const gone = pages_inside(seen.base + range.offset, *length_within(seen.size, range));
  auto left = from.holds;
  for (std::uint64_t at = std::max(gone.offset, left.holes); at < gone.offset + gone.length; ++at) {
    left.bytes[at - left.holes] = std::byte{0};
  }
  p.expect(left.is_at(seen.base, m.bytes()), "other bytes");
  if (gone.length > 0) {
    from.restore();
  }
}

void use_mapping(permutation& p, mapping& m, map_kind const& kind, original const& from, window const& seen) {
  for_each_range(seen.size, [&](byte_range range) {
    use_range(p, m, seen, range);
    flush_range(p, m, kind, seen, range);
    discard_range(p, m, kind, from, seen, range);
  });
}

void map_ranges(permutation& p, original const& from, map_kind const& kind) {
  auto const size = from.holds.size();
  auto const opened = or_throw(file::open(from.path, {.access = kind.opened}));
  for_each_range(size, [&](byte_range range) {
    p.handle(kind.name, size, range);
    p.next("map", range);
    auto m = mapping::map(opened,
                          {.access = kind.mapped, .executable = kind.executable, .range = range, .no_reserve = true});
    if (!p.expect(m, verdict_of_mapping(kind, size, range))) {
      return;
    }
    auto const length = *length_within(size, range);
    p.expect(m->size() == length && m->file_offset() == range.offset, "another range");
    p.expect(from.holds.is_at(range.offset, m->bytes()), "other bytes");
    p.expect(m->writable_bytes().size() == (kind.mapped == access::read_only ? 0 : length), "writable or not");
    use_mapping(p, *m, kind, from, {.of = &from.holds, .base = range.offset, .size = length});
  });
}

// --- writing ---

enum class state : unsigned char { writable, protected_against, copy, closed };

auto to_string(state s) -> std::string_view {
  switch (s) {
  case state::writable:
    return "mutable_mapped_file";
  case state::protected_against:
    return "protected mutable_mapped_file";
  case state::copy:
    return "copy-on-write mutable_mapped_file";
  case state::closed:
    return "closed mutable_mapped_file";
  }
  return "";
}

// A file that is written, and what it is to show.
class written {
public:
  written(permutation& all, original const& from, state now) : p{all}, now{now}, from_{from}, shown_{from.holds.bytes} {
    f = now == state::copy ? or_throw(mutable_mapped_file::open_copy_on_write(from.path))
                           : or_throw(mutable_mapped_file::open_existing(from.path));
    if (now == state::protected_against) {
      or_throw(f.protect(access::read_only));
    }
    if (now == state::closed) {
      or_throw(f.close());
      shown_.clear();
    }
    p.handle(to_string(now), from.holds.size());
  }

  [[nodiscard]] auto size() const -> std::uint64_t { return shown_.size(); }

  // What is right for a call that writes `range`.
  [[nodiscard]] auto writing(byte_range range) const -> verdict {
    if (now == state::closed) {
      return verdict{}.refuse_if(true, errc::closed);
    }
    return within(size(), range).refuse_if(now == state::protected_against, errc::read_only);
  }

  // What is right for a call that does not need to write in memory.
  [[nodiscard]] auto using_range(byte_range range) const -> verdict {
    return now == state::closed ? verdict{}.refuse_if(true, errc::closed) : within(size(), range);
  }

  // Other bytes each time, as many as a call is to write.
  auto other_bytes(std::size_t count) -> bytes_view {
    bytes_ = pattern(count, ++seed_);
    return bytes_of(bytes_);
  }

  void expect_written(std::uint64_t offset, bytes_view bytes) {
    std::ranges::copy(bytes, shown_.begin() + static_cast<std::ptrdiff_t>(offset));
    compare();
  }

  void expect_filled(byte_range range, std::byte value) {
    std::ranges::fill(std::span{shown_}.subspan(range.offset, range.length), value);
    compare();
  }

  // Pages are zero, or what the file has when this is a copy of it.
  void expect_discarded(byte_range pages) {
    if (pages.length > 0 && now == state::copy) {
      return expect_written(pages.offset, from_.holds.part(pages.offset, pages.length));
    }
    expect_filled(pages.length > 0 ? pages : byte_range{.length = 0}, std::byte{0});
  }

  void compare() { p.expect(same_bytes(f.bytes(), shown_), "other bytes are shown"); }

  // What the file holds in the end.
  void compare_file() {
    auto const reaches_it = now == state::writable || now == state::protected_against;
    p.expect(same_bytes(bytes_of(read_back(from_.path)), reaches_it ? shown_ : from_.holds.bytes),
             "the file has other bytes");
  }

  permutation& p;
  state now;
  mutable_mapped_file f;

private:
  original const& from_;
  std::vector<std::byte> shown_;
  std::string bytes_;
  std::uint64_t seed_ = 0;
};

void write_from_a_buffer(written& w, byte_range range) {
  if (range.length > much) {
    return;
  }
  auto const in = w.other_bytes(range.length);
  auto const can = w.now == state::writable || w.now == state::copy;
  auto const room = can && range.offset < w.size() ? std::min<std::uint64_t>(w.size() - range.offset, in.size()) : 0;
  w.p.next("write_at", range);
  w.p.expect(w.f.write_at(range.offset, in) == room, "another number of bytes");
  room > 0 ? w.expect_written(range.offset, in.first(room)) : w.compare();
  auto const again = w.other_bytes(range.length);
  w.p.next("write_exactly", range);
  w.p.expect(w.f.write_exactly(range.offset, again), w.writing(range)) ? w.expect_written(range.offset, again)
                                                                       : w.compare();
}

void write_in_place(written& w, byte_range range) {
  auto const length = length_within(w.size(), range).value_or(0);
  auto const right = w.writing(range);
  w.p.next("writable_bytes", range);
  if (auto const to = w.f.writable_bytes(range.offset, range.length);
      w.p.expect(to, range.length == SIZE_MAX ? w.writing({.offset = UINT64_MAX, .length = 1}) : right)) {
    auto const in = w.other_bytes(length);
    w.p.expect(to->size() == length, "another length");
    std::ranges::copy(in, to->begin());
    w.expect_written(range.offset, in);
  }
  w.p.next("writer", range);
  if (auto to = w.f.writer(range); w.p.expect(to, right)) {
    auto const in = w.other_bytes(length);
    w.p.expect(to->size() == length && to->write_exactly(in).has_value() && to->at_end(), "another length");
    w.p.expect(fails(to->write<char>('x'), errc::out_of_range), "a writer goes on past its range");
    w.expect_written(range.offset, in);
  }
  w.compare();
}

void fill_range(written& w, byte_range range) {
  auto const length = length_within(w.size(), range).value_or(0);
  auto const right = w.writing(range);
  w.p.next("fill", range);
  if (w.p.expect(w.f.fill(range, std::byte{0xa5}), right)) {
    w.expect_filled({.offset = range.offset, .length = length}, std::byte{0xa5});
  }
  w.p.next("zero", range);
  if (w.p.expect(w.f.zero(range), right)) {
    w.expect_filled({.offset = range.offset, .length = length}, std::byte{0});
  }
  w.compare();
}

void store_through_views(written& w, byte_range counted) {
  for_each_type([&]<class T>(std::type_identity<T>) {
    auto const rest = counted.offset <= w.size() ? w.size() - counted.offset : 0;
    auto const length = counted.length == SIZE_MAX ? wide{(rest + sizeof(T) - 1) / sizeof(T)} * sizeof(T)
                                                   : wide{counted.length} * sizeof(T);
    auto right = w.writing({.offset = 0, .length = 0});
    if (w.now != state::closed) {
      right.refuse_if(counted.offset + length > w.size(), errc::out_of_range)
          .refuse_if(length > 0 && counted.offset % alignof(T) != 0, errc::misaligned);
    }
    w.p.next("writable_view", counted);
    if (auto const to = counted.length == SIZE_MAX ? w.f.writable_view<T>(counted.offset)
                                                   : w.f.writable_view<T>(counted.offset, counted.length);
        w.p.expect(to, right)) {
      w.p.expect(to->size() * sizeof(T) == length, "another number of objects");
      auto const in = w.other_bytes(to->size() * sizeof(T));
      std::ranges::copy(in, std::as_writable_bytes(*to).begin());
      w.expect_written(counted.offset, in);
    }
  });
}

template <class T>
void write_a_number(written& w, byte_range range) {
  for (auto const order : {std::endian::little, std::endian::big}) {
    auto const in = w.other_bytes(sizeof(T));
    auto const value = number_from<T>(in, order);
    w.p.next(order == std::endian::little ? "write_le" : "write_be", range);
    auto const done =
        order == std::endian::little ? w.f.write_le<T>(range.offset, value) : w.f.write_be<T>(range.offset, value);
    w.p.expect(done, w.writing(range)) ? w.expect_written(range.offset, in) : w.compare();
  }
}

void write_objects(written& w, std::uint64_t offset) {
  for_each_type([&]<class T>(std::type_identity<T>) {
    byte_range const range{.offset = offset, .length = sizeof(T)};
    auto const in = w.other_bytes(sizeof(T));
    w.p.next("write", range);
    w.p.expect(w.f.write<T>(offset, object_from<T>(in)), w.writing(range)) ? w.expect_written(offset, in) : w.compare();
  });
  for_each_number(
      [&]<class T>(std::type_identity<T>) { write_a_number<T>(w, {.offset = offset, .length = sizeof(T)}); });
}

void keep_range(written& w, byte_range range) {
  auto const right = w.using_range(range);
  w.p.next("share", range);
  w.p.expect(w.f.share(range), right);
  w.p.next("advise", range);
  w.p.expect(w.f.advise(fmmap::advice::will_need, range), right);
  auto of_the_file = right;
  of_the_file.refuse_if(w.now == state::copy, errc::copy_on_write);
  w.p.next("flush", range);
  w.p.expect(w.f.flush(range), of_the_file);
  w.p.next("stage_flush", range);
  w.p.expect(w.f.stage_flush(range), of_the_file);
  w.p.next("rewrite", range);
  w.p.expect(w.f.rewrite(range), of_the_file);
  w.compare();
}

void discard_range(written& w, byte_range range) {
  w.p.next("discard", range);
  if (w.p.expect(w.f.discard(range), w.using_range(range))) {
    w.expect_discarded(pages_inside(range.offset, *length_within(w.size(), range)));
  }
  w.compare();
}

void write_everything(written& w) {
  for (auto const offset : offsets_for(w.size())) {
    write_objects(w, offset);
  }
  for_each_range(w.size(), [&](byte_range range) {
    write_from_a_buffer(w, range);
    write_in_place(w, range);
    fill_range(w, range);
    store_through_views(w, range);
    keep_range(w, range);
    discard_range(w, range);
  });
  w.compare_file();
}

// --- protection ---

auto verdict_of_protection(map_kind const& kind, fmmap::access wanted, bool executable) -> verdict {
  auto const copy = kind.mapped == access::copy_on_write;
  return verdict{}
      .refuse_if(wanted != access::read_only && executable, errc::writable_and_executable)
      .refuse_if(wanted == access::copy_on_write && !copy, errc::invalid_options)
      .refuse_if(wanted == access::read_write && copy, errc::copy_on_write)
      .refuse_if(wanted == access::read_write && kind.opened == access::read_only, errc::read_only);
}

void protect_in_every_way(permutation& p, mapping& m, map_kind const& kind, original const& from) {
  for (auto const wanted : {access::read_only, access::read_write, access::copy_on_write}) {
    for (bool const executable : {false, true}) {
      auto const before = m.access();
      auto const could_execute = m.is_executable();
      p.next(executable ? "protect, executable" : "protect", fmmap::whole);
      auto const done = p.expect(m.protect(wanted, executable), verdict_of_protection(kind, wanted, executable));
      p.expect(m.access() == (done ? wanted : before), "another access");
      p.expect(m.is_executable() == (done ? executable : could_execute), "executable or not");
      p.expect(m.writable_bytes().empty() == (m.access() == access::read_only || m.empty()), "writable or not");
      p.expect(from.holds.is_at(0, m.bytes()), "other bytes");
      if (!m.writable_bytes().empty()) { // the system is of the same opinion
        m.writable_bytes()[0] = from.holds.at(0);
      }
    }
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(every_combination_of_offset_and_length)

BOOST_AUTO_TEST_CASE(is_mapped_and_read_or_refused) {
  scratch const s;
  auto const executable = may_execute(s);
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    read_mapped_files(p, from, false);
    if (executable) {
      read_mapped_files(p, from, true);
    }
  }
}

BOOST_AUTO_TEST_CASE(of_a_file_past_four_gigabytes_is_mapped_and_read_or_refused) {
  scratch const s;
  permutation p;
  read_mapped_files(p, make_original(s, far + page + 100, far - 50), false);
}

BOOST_AUTO_TEST_CASE(is_read_or_refused_through_what_maps_or_reads_whole_files) {
  scratch const s;
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    window const seen{.of = &from.holds, .size = size};
    p.handle("mutable_mapped_file", size);
    read_everything(p, or_throw(mutable_mapped_file::open_existing(from.path)), seen);
    p.handle("mutable_mapped_file with a reserve", size);
    read_everything(p, or_throw(mutable_mapped_file::open_existing(from.path, {.reserve = 1 << 20})), seen);
    p.handle("copy-on-write mutable_mapped_file", size);
    read_everything(p, or_throw(mutable_mapped_file::open_copy_on_write(from.path)), seen);
    p.handle("file_view that reads", size);
    read_everything(p, or_throw(fmmap::file_view::open(from.path)), seen);
    p.handle("file_view that maps", size);
    read_everything(p, or_throw(fmmap::file_view::open(from.path, {.map_above = 0})), seen);
  }
}

BOOST_AUTO_TEST_CASE(is_copied_to_a_file_or_refused) {
  scratch const s{memory_folder()};
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    p.handle("mapped_file", size);
    copy_parts(p, or_throw(mapped_file::open(from.path)), {.of = &from.holds, .size = size}, s);
    p.handle("file_view", size);
    copy_parts(p, or_throw(fmmap::file_view::open(from.path)), {.of = &from.holds, .size = size}, s);
  }
}

BOOST_AUTO_TEST_CASE(is_used_or_refused_by_mappings_of_every_access) {
  scratch const s{memory_folder()};
  auto const executable = may_execute(s);
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    for (auto const& kind : map_kinds) {
      if (executable || !kind.executable || kind.mapped != access::read_only) {
        map_ranges(p, from, kind);
      }
    }
    p.expect(from.holds.is_at(0, bytes_of(read_back(from.path))), "the file has other bytes");
  }
}

BOOST_AUTO_TEST_CASE(is_written_or_refused) {
  scratch const s{memory_folder()};
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    for (auto const now : {state::writable, state::protected_against, state::copy, state::closed}) {
      from.restore();
      written w{p, from, now};
      write_everything(w);
    }
  }
}

BOOST_AUTO_TEST_CASE(on_a_disk_is_written_or_refused) {
  scratch const s;
  permutation p;
  auto const from = make_original(s, page + 1);
  written w{p, from, state::writable};
  write_everything(w);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(every_change_of_protection)

BOOST_AUTO_TEST_CASE(is_made_or_refused) {
  scratch const s;
  if (!may_execute(s)) {
    return;
  }
  permutation p;
  for (auto const size : sizes) {
    auto const from = make_original(s, size);
    for (auto const& kind : map_kinds) {
      if (!verdict_of_mapping(kind, size, fmmap::whole).accepts()) {
        continue;
      }
      p.handle(kind.name, size);
      auto const opened = or_throw(file::open(from.path, {.access = kind.opened}));
      auto m = or_throw(mapping::map(opened, {.access = kind.mapped, .executable = kind.executable}));
      protect_in_every_way(p, m, kind, from);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
