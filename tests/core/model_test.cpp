// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <functional>
#include <iostream>
#include <iterator>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/reference.hpp"
#include "support/scratch.hpp"

import fmmap.core;

using fmmap::access;
using fmmap::byte_range;
using fmmap::durability;
using fmmap::errc;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace {

using bytes_view = std::span<std::byte const>;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t usual_most = 64 << 10;

struct point {
  std::uint8_t red;
  std::uint8_t green;
  std::uint16_t x;
  std::uint32_t y;
  std::uint64_t weight;
};

// What goes wrong in an operation; the run adds which it was.
class difference : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

void expect(bool holds, std::string_view what) {
  if (!holds) {
    throw difference{std::string{what}};
  }
}

template <class Result>
void expect_done(Result const& outcome, std::string_view what) {
  if (!outcome) {
    throw difference{std::string{what} + ": " + outcome.error().message()};
  }
}

auto seed_of_this_run() -> std::uint64_t {
  static auto const seed = [] {
    auto const* const given = std::getenv("FMMAP_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 0) : std::uint64_t{std::random_device{}()};
  }();
  return seed;
}

// What the random operations choose from.
class choices {
public:
  explicit choices(std::uint64_t seed) : random_{seed} {
    for (auto& byte : pool_) {
      byte = static_cast<std::byte>(random_() >> 56);
    }
  }

  // From 0 to below `limit`.
  auto below(std::uint64_t limit) -> std::uint64_t { return limit == 0 ? 0 : random_() % limit; }
  auto up_to(std::uint64_t most) -> std::uint64_t { return random_() % (most + 1); }
  auto one_in(std::uint64_t n) -> bool { return below(n) == 0; }

  // Up to `most`, every second time beside the border of a page.
  auto near_pages(std::uint64_t most) -> std::uint64_t {
    if (one_in(2)) {
      return up_to(most);
    }
    auto const border = (up_to((most / page) + 1) * page) + below(5);
    return std::min(most, border < 2 ? 0 : border - 2);
  }

  // How many bytes an operation touches: mostly few.
  auto length() -> std::size_t { return near_pages(one_in(8) ? 5 * page : 300); }

  auto bytes(std::size_t count) -> bytes_view { return bytes_view{pool_}.subspan(up_to(pool_.size() - count), count); }

private:
  std::mt19937_64 random_;
  std::vector<std::byte> pool_ = std::vector<std::byte>(std::size_t{64} << 10);
};

// The last few operations, put into words only when one goes wrong.
class history {
public:
  void begin(std::string_view operation) {
    ++count_;
    latest() = {.operation = operation, .numbers = {}, .used = 0};
  }
  void note(std::uint64_t number) {
    auto& now = latest();
    if (now.used < now.numbers.size()) {
      now.numbers[now.used++] = number;
    }
  }
  [[nodiscard]] auto count() const -> std::uint64_t { return count_; }

  [[nodiscard]] auto text() const -> std::string {
    std::string told;
    for (auto n = count_ < entries_.size() ? 1 : count_ - entries_.size() + 1; n <= count_; ++n) {
      auto const& entry = entries_[n % entries_.size()];
      told += "\n  " + std::to_string(n) + ' ' + std::string{entry.operation};
      for (auto const number : std::span{entry.numbers}.first(entry.used)) {
        told += ' ' + std::to_string(number);
      }
    }
    return told;
  }

private:
  struct entry {
    std::string_view operation;
    std::array<std::uint64_t, 8> numbers{};
    std::size_t used = 0;
  };
  auto latest() -> entry& { return entries_[count_ % entries_.size()]; }

  std::array<entry, 12> entries_;
  std::uint64_t count_ = 0;
};

// The content of a file as read(2) gives it.
auto plain_read(std::filesystem::path const& path) -> std::vector<std::byte> {
  auto const descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  expect(descriptor >= 0, "the file cannot be opened");
  std::vector<std::byte> content;
  std::vector<std::byte> buffer(std::size_t{64} << 10);
  ssize_t got = 0;
  while ((got = ::read(descriptor, buffer.data(), buffer.size())) > 0) {
    content.insert(content.end(), buffer.begin(), buffer.begin() + got);
  }
  ::close(descriptor);
  expect(got == 0, "the file cannot be read");
  return content;
}

// A file, the bytes it has to hold, and what is known of both.
class twin {
public:
  // With a name in `folder`, or in memory.
  twin(std::filesystem::path folder, bool in_memory, std::uint64_t seed)
      : random{seed}, folder{std::move(folder)}, in_memory{in_memory} {
    file = in_memory ? or_throw(mutable_mapped_file::in_memory("model", 0))
                     : or_throw(mutable_mapped_file::create(this->folder / "f"));
    find_path();
  }

  [[nodiscard]] auto size() const -> std::uint64_t { return expected.size(); }

  // Where a file in memory can be opened changes with its descriptor.
  void find_path() {
    auto const number = std::to_string(file.as_file().native_handle());
    path = in_memory ? std::filesystem::path{"/proc/self/fd"} / number : folder / "f";
  }

  // Chooses a range inside the file, which it notes.
  auto choose_range() -> byte_range {
    auto const offset = random.near_pages(size());
    byte_range const range{.offset = offset, .length = std::min<std::uint64_t>(random.length(), size() - offset)};
    past.note(range.offset);
    past.note(range.length);
    return range;
  }

  // Chooses a range that reaches outside, likewise.
  auto choose_outside() -> byte_range {
    auto const far = random.one_in(4);
    auto const offset = far ? UINT64_MAX - random.below(2 * page) : random.near_pages(size() + page);
    auto const rest = offset > size() ? 0 : size() - offset;
    byte_range const range{.offset = offset,
                           .length = random.one_in(8) && rest > 0 ? SIZE_MAX - 1 - random.below(page)
                                                                  : rest + 1 + random.below(page)};
    past.note(range.offset);
    past.note(range.length);
    return range;
  }

  // `range` of the expected bytes.
  [[nodiscard]] auto part(byte_range range) const -> bytes_view {
    return bytes_view{expected}.subspan(range.offset, range.length);
  }

  void put(std::uint64_t offset, bytes_view bytes) {
    std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  // Compares what the mapping shows, from a little before `range` to a little after it.
  void compare(byte_range range) const {
    expect(file.size() == size() && file.bytes().size() == size(), "the size is another");
    auto const begin = range.offset - std::min<std::uint64_t>(range.offset, 16);
    auto const end = std::min(size(), range.offset + range.length + 16);
    byte_range const around{.offset = begin, .length = end - begin};
    expect(same_bytes(file.bytes().subspan(begin, around.length), part(around)), "the mapping has other bytes");
  }

  void compare_all() const { compare({.offset = 0, .length = size()}); }

  // Compares what read(2) says, and the size in the file system.
  void compare_file() const {
    expect(std::filesystem::file_size(path) == size(), "the file's size is another");
    expect(same_bytes(plain_read(path), expected), "the file has other bytes");
  }

  // Checks that nothing is allocated past the end.
  void check_blocks() const {
    struct stat status{};
    expect(::stat(path.c_str(), &status) == 0, "stat");
    auto const blocks = static_cast<std::uint64_t>(status.st_blocks) * 512;
    expect(blocks <= (size() + page - 1) / page * page + page, "blocks are left past the end"); // one is for extents
  }

  // Checks an error and that it changed nothing.
  template <class Result, class Code>
  void expect_refused(Result const& outcome, Code code, std::string_view what) const {
    expect(!outcome.has_value(), std::string{what} + " was not refused");
    expect(outcome.error() == code, std::string{what} + ": " + outcome.error().message());
    expect(file.size() == size(), std::string{what} + " was refused and changed the size");
  }

  // Calls `act`, which may make the file up to `most` bytes long, and checks the address.
  template <class Act>
  void keeping_the_address(std::uint64_t most, Act act) {
    auto const* const data = file.bytes().data();
    auto const room = file.capacity();
    act();
    auto const stayed = file.bytes().data() == data;
    expect(stayed || most > room, "the mapping has moved inside the reservation");
    moved += stayed || data == nullptr ? 0 : 1;
  }

  choices random;
  history past;
  std::filesystem::path folder;
  bool in_memory;
  bool may_move = true;
  std::filesystem::path path;
  mutable_mapped_file file;
  std::vector<std::byte> expected;
  std::optional<fmmap::shared_bytes> shared; // bytes from `shared_at` on, of an earlier mapping of the file
  std::uint64_t shared_at = 0;
  std::optional<fmmap::flush_job> staged;
  std::uint64_t moved = 0;
  std::uint64_t reopened = 0;
};

// Calls `act` with one of the types that are numbers, or with one that is not.
template <class Act>
void with_some_number(choices& random, Act act) {
  switch (random.below(8)) {
  case 0:
    return act(std::type_identity<std::uint8_t>{});
  case 1:
    return act(std::type_identity<std::int16_t>{});
  case 2:
    return act(std::type_identity<std::uint32_t>{});
  case 3:
    return act(std::type_identity<float>{});
  case 4:
    return act(std::type_identity<std::int64_t>{});
  case 5:
    return act(std::type_identity<double>{});
  case 6:
    return act(std::type_identity<__int128>{});
  default:
    return act(std::type_identity<unsigned __int128>{});
  }
}

template <class Act>
void with_some_type(choices& random, Act act) {
  return random.one_in(4) ? act(std::type_identity<point>{}) : with_some_number(random, act);
}

// --- changing the size ---

auto may_become(twin const& t, std::uint64_t size) -> bool { return t.may_move || size <= t.file.capacity(); }

void resize_to(twin& t, std::uint64_t size, durability level) {
  t.past.note(size);
  if (!may_become(t, size)) {
    t.expect_refused(t.file.resize(size, level), errc::reservation_exceeded, "resize");
    return t.compare_all();
  }
  auto const old = t.size();
  t.keeping_the_address(size, [&] {
    auto const outcome = t.file.resize(size, level);
    t.expected.resize(size);
    if (t.in_memory && level != durability::none) {
      return t.expect_refused(outcome, errc::not_durable, "the flush of a resize");
    }
    expect_done(outcome, "resize");
  });
  auto const kept = std::min(old, size);
  auto const from = kept - std::min(kept, page);
  t.compare({.offset = from, .length = size - from});
}

void resize(twin& t) {
  auto const most = t.random.one_in(50) ? 8 * usual_most : usual_most;
  resize_to(t, t.random.near_pages(most), durability::none);
}

void resize_a_little(twin& t) {
  auto const around = t.size() + t.random.length();
  auto const back = t.random.length();
  resize_to(t, around < back ? 0 : around - back, durability::none);
}

void resize_durably(twin& t) {
  auto const weak = !t.random.one_in(20);
  auto const level = weak ? static_cast<durability>(t.random.up_to(2)) : durability::data;
  resize_to(t, t.random.near_pages(usual_most), level);
}

void append(twin& t) {
  if (t.size() > 2 * usual_most) {
    return resize_to(t, t.random.near_pages(usual_most), durability::none);
  }
  auto const bytes = t.random.bytes(t.random.length());
  auto const begin = t.size();
  auto const end = begin + bytes.size();
  t.past.note(bytes.size());
  if (!may_become(t, end)) {
    t.expect_refused(t.file.append(bytes), errc::reservation_exceeded, "append");
    return t.compare_all();
  }
  t.keeping_the_address(end, [&] {
    auto const where = t.file.append(bytes);
    expect_done(where, "append");
    expect(*where == begin, "append says another place");
  });
  t.expected.insert(t.expected.end(), bytes.begin(), bytes.end());
  t.compare({.offset = begin, .length = bytes.size()});
}

void append_what_it_has(twin& t) {
  auto const range = t.choose_range();
  auto const end = t.size() + range.length;
  if (!may_become(t, end)) {
    return;
  }
  std::vector const copy(t.part(range).begin(), t.part(range).end());
  t.keeping_the_address(end, [&] {
    expect_done(t.file.append(t.file.bytes().subspan(range.offset, range.length)), "append of its own bytes");
  });
  t.expected.insert(t.expected.end(), copy.begin(), copy.end());
  t.compare({.offset = end - range.length, .length = range.length});
}

void reserve(twin& t) {
  auto const capacity = t.random.near_pages(4 * usual_most);
  t.past.note(capacity);
  t.keeping_the_address(capacity, [&] { expect_done(t.file.reserve(capacity), "reserve"); });
  expect(t.file.capacity() >= std::max<std::uint64_t>(capacity, t.size()), "less is reserved than was asked for");
  t.compare_all();
}

void shrink_to_fit(twin& t) {
  t.keeping_the_address(0, [&] { expect_done(t.file.shrink_to_fit(), "shrink_to_fit"); });
  t.check_blocks();
  t.compare_all();
}

// --- writing ---

void write_at(twin& t) {
  auto const offset = t.random.one_in(50) ? UINT64_MAX - t.random.below(page) : t.random.near_pages(t.size() + 10);
  auto const bytes = t.random.bytes(t.random.length());
  t.past.note(offset);
  t.past.note(bytes.size());
  auto const fits = offset >= t.size() ? 0 : std::min<std::uint64_t>(bytes.size(), t.size() - offset);
  expect(t.file.write_at(offset, bytes) == fits, "write_at says another number of bytes");
  if (fits == 0) {
    return t.compare_all();
  }
  t.put(offset, bytes.first(fits));
  t.compare({.offset = offset, .length = fits});
}

void write_exactly(twin& t) {
  auto const range = t.choose_range();
  auto const bytes = t.random.bytes(range.length);
  expect_done(t.file.write_exactly(range.offset, bytes), "write_exactly");
  t.put(range.offset, bytes);
  t.compare(range);
}

// Writes a value whose bytes are known by `call`, anywhere around the file.
template <class T, class Call>
void write_value(twin& t, bytes_view bytes, Call call) {
  auto const offset = t.random.near_pages(t.size() + sizeof(T));
  t.past.note(offset);
  t.past.note(sizeof(T));
  if (offset + sizeof(T) > t.size()) {
    t.expect_refused(call(offset), errc::out_of_range, "write");
    return t.compare_all();
  }
  expect_done(call(offset), "write");
  t.put(offset, bytes);
  t.compare({.offset = offset, .length = sizeof(T)});
}

void write_object(twin& t) {
  with_some_type(t.random, [&]<class T>(std::type_identity<T>) {
    auto const bytes = t.random.bytes(sizeof(T));
    auto const value = object_from<T>(bytes);
    write_value<T>(t, bytes, [&](std::uint64_t offset) { return t.file.write<T>(offset, value); });
  });
}

void write_number(twin& t) {
  with_some_number(t.random, [&]<class T>(std::type_identity<T>) {
    auto const bytes = t.random.bytes(sizeof(T));
    if (t.random.one_in(2)) {
      auto const value = number_from<T>(bytes, std::endian::little);
      return write_value<T>(t, bytes, [&](std::uint64_t offset) { return t.file.write_le<T>(offset, value); });
    }
    auto const value = number_from<T>(bytes, std::endian::big);
    write_value<T>(t, bytes, [&](std::uint64_t offset) { return t.file.write_be<T>(offset, value); });
  });
}

void fill(twin& t) {
  auto range = t.choose_range();
  auto const value = t.random.bytes(1)[0];
  if (t.random.one_in(50)) {
    expect_done(t.file.fill({.offset = range.offset}, value), "fill to the end");
    range.length = t.size() - range.offset;
  } else {
    expect_done(t.file.fill(range, value), "fill");
  }
  std::ranges::fill(std::span{t.expected}.subspan(range.offset, range.length), value);
  t.compare(range);
}

void zero(twin& t) {
  auto const range = t.choose_range();
  expect_done(t.file.zero(range), "zero");
  std::ranges::fill(std::span{t.expected}.subspan(range.offset, range.length), std::byte{0});
  t.compare(range);
}

void store(twin& t) {
  auto const range = t.choose_range();
  auto const bytes = t.random.bytes(range.length);
  auto const to = t.file.writable_bytes(range.offset, range.length);
  expect_done(to, "writable_bytes");
  std::ranges::copy(bytes, to->begin());
  t.put(range.offset, bytes);
  t.compare(range);
}

// What lies past the end in the last page is not content.
void store_past_the_end(twin& t) {
  auto const rest = (page - t.size() % page) % page;
  std::ranges::copy(t.random.bytes(rest), t.file.writable_bytes().data() + t.size());
  t.compare_all();
}

// The expected bytes of a zone that a writer goes over, and one step of it.
void write_step(twin& t, fmmap::byte_writer& to, byte_range zone) {
  auto const at = to.position();
  auto const bytes = t.random.bytes(t.random.up_to(40));
  auto const fits = bytes.size() <= zone.length - at;
  auto const choice = t.random.below(4);
  auto const expect_bounded = [&](auto const& outcome) {
    expect(fits ? outcome.has_value() : fails(outcome, errc::out_of_range), "a writer does not keep to its range");
    expect(to.position() == (fits ? at + bytes.size() : at), "a writer is at another position");
  };
  if (choice == 0) {
    return expect_bounded(to.skip(bytes.size()));
  }
  if (choice == 1) {
    expect_done(to.seek(t.random.up_to(zone.length)), "seek");
    return;
  }
  if (choice == 2) {
    auto const written = to.write_some(bytes);
    expect(written == std::min<std::uint64_t>(bytes.size(), zone.length - at), "write_some says another number");
    return t.put(zone.offset + at, bytes.first(written));
  }
  expect_bounded(to.write_exactly(bytes));
  if (fits) {
    t.put(zone.offset + at, bytes);
  }
}

void write_step_of_a_number(twin& t, fmmap::byte_writer& to, byte_range zone) {
  with_some_number(t.random, [&]<class T>(std::type_identity<T>) {
    auto const at = to.position();
    auto const bytes = t.random.bytes(sizeof(T));
    auto const choice = t.random.below(3);
    auto const done = choice == 0   ? to.write<T>(object_from<T>(bytes))
                      : choice == 1 ? to.write_le<T>(number_from<T>(bytes, std::endian::little))
                                    : to.write_be<T>(number_from<T>(bytes, std::endian::big));
    auto const fits = sizeof(T) <= zone.length - at;
    expect(fits ? done.has_value() : fails(done, errc::out_of_range), "a number does not keep to its range");
    expect(to.position() == (fits ? at + sizeof(T) : at), "a number leaves a writer at another position");
    if (fits) {
      t.put(zone.offset + at, bytes);
    }
  });
}

void run_a_writer(twin& t) {
  auto const range = t.choose_range();
  auto to = t.file.writer(range);
  expect_done(to, "writer");
  for (auto steps = t.random.up_to(8); steps > 0; --steps) {
    t.random.one_in(2) ? write_step(t, *to, range) : write_step_of_a_number(t, *to, range);
    expect(to->remaining() == range.length - to->position(), "a writer has another rest");
  }
  t.compare(range);
}

// --- reading ---

void read_bytes(twin& t) {
  auto const range = t.choose_range();
  auto const got = t.file.bytes(range.offset, range.length);
  expect_done(got, "bytes");
  expect(got->data() == t.file.bytes().data() + range.offset, "bytes are elsewhere");
  expect(same_bytes(*got, t.part(range)), "bytes are others");
}

// Reads a value by `call`, anywhere around the file.
template <class T, class Call>
void read_value(twin& t, Call call) {
  auto const offset = t.random.near_pages(t.size() + sizeof(T));
  t.past.note(offset);
  t.past.note(sizeof(T));
  if (offset + sizeof(T) > t.size()) {
    return t.expect_refused(call(offset), errc::out_of_range, "read");
  }
  call(offset);
}

void read_object(twin& t) {
  with_some_type(t.random, [&]<class T>(std::type_identity<T>) {
    read_value<T>(t, [&](std::uint64_t offset) {
      auto const got = t.file.read<T>(offset);
      expect(!got || has_bytes(*got, t.part({.offset = offset, .length = sizeof(T)})), "read gives another object");
      return got;
    });
  });
}

void read_number(twin& t) {
  with_some_number(t.random, [&]<class T>(std::type_identity<T>) {
    auto const order = t.random.one_in(2) ? std::endian::little : std::endian::big;
    read_value<T>(t, [&](std::uint64_t offset) {
      auto const got = order == std::endian::little ? t.file.read_le<T>(offset) : t.file.read_be<T>(offset);
      if (got) {
        auto const right = number_from<T>(t.part({.offset = offset, .length = sizeof(T)}), order);
        expect(has_bytes(*got, std::as_bytes(std::span{&right, 1})), "a number is another");
      }
      return got;
    });
  });
}

template <class T>
void check_view(twin& t, std::uint64_t offset, std::uint64_t count, fmmap::result<std::span<T const>> const& got) {
  if (offset > t.size() || count > (t.size() - offset) / sizeof(T)) {
    return t.expect_refused(got, errc::out_of_range, "view");
  }
  if (!t.file.bytes().empty() && offset % alignof(T) != 0) { // the mapping begins at a page
    return t.expect_refused(got, errc::misaligned, "view");
  }
  expect_done(got, "view");
  expect(got->size() == count, "a view has another length");
  expect(same_bytes(std::as_bytes(*got), t.part({.offset = offset, .length = count * sizeof(T)})), "a view is another");
}

void view_objects(twin& t) {
  with_some_type(t.random, [&]<class T>(std::type_identity<T>) {
    auto const offset = t.random.near_pages(t.size() + 1) / (t.random.one_in(2) ? 1 : alignof(T)) * alignof(T);
    t.past.note(offset);
    t.past.note(sizeof(T));
    if (t.random.one_in(2)) {
      auto const count = t.random.length() / sizeof(T);
      t.past.note(count);
      return check_view<T>(t, offset, count, t.file.view<T>(offset, count));
    }
    auto const rest = offset > t.size() ? 0 : t.size() - offset;
    check_view<T>(t, offset, (rest + sizeof(T) - 1) / sizeof(T), t.file.view<T>(offset));
  });
}

void store_through_a_view(twin& t) {
  with_some_type(t.random, [&]<class T>(std::type_identity<T>) {
    auto const offset = t.random.up_to(t.size()) / alignof(T) * alignof(T);
    auto const count = std::min<std::uint64_t>(t.random.up_to(20), (t.size() - offset) / sizeof(T));
    t.past.note(offset);
    t.past.note(count * sizeof(T));
    auto const to = t.file.writable_view<T>(offset, count);
    expect_done(to, "writable_view");
    expect(to->size() == count, "a writable view has another length");
    auto const bytes = t.random.bytes(count * sizeof(T));
    std::ranges::copy(bytes, std::as_writable_bytes(*to).begin());
    t.put(offset, bytes);
    t.compare({.offset = offset, .length = bytes.size()});
  });
}

void read_at(twin& t) {
  auto const offset = t.random.one_in(50) ? UINT64_MAX - t.random.below(page) : t.random.near_pages(t.size() + 10);
  std::vector<std::byte> out(t.random.length(), std::byte{0x5a});
  t.past.note(offset);
  t.past.note(out.size());
  auto const fits = offset >= t.size() ? 0 : std::min<std::uint64_t>(out.size(), t.size() - offset);
  expect(t.file.read_at(offset, out) == fits, "read_at says another number of bytes");
  auto const rest = bytes_view{out}.subspan(fits);
  expect(fits == 0 || same_bytes(bytes_view{out}.first(fits), t.part({.offset = offset, .length = fits})),
         "read_at gives other bytes");
  expect(static_cast<std::size_t>(std::ranges::count(rest, std::byte{0x5a})) == rest.size(), "read_at writes too much");
}

void read_exactly(twin& t) {
  auto const range = t.choose_range();
  std::vector<std::byte> out(range.length);
  expect_done(t.file.read_exactly(range.offset, out), "read_exactly");
  expect(same_bytes(out, t.part(range)), "read_exactly gives other bytes");
}

void copy_to_a_vector(twin& t) {
  auto const range = t.choose_range();
  auto const got = t.file.to_vector(range);
  expect_done(got, "to_vector");
  expect(same_bytes(*got, t.part(range)), "to_vector gives other bytes");
}

// `seen` where `outcome` is a success, else its error.
auto seen_if(fmmap::result<void> const& outcome, bytes_view seen) -> fmmap::result<bytes_view> {
  return outcome ? fmmap::result<bytes_view>{seen} : std::unexpected(outcome.error());
}

auto view_step(fmmap::byte_reader& from, std::size_t count) -> fmmap::result<bytes_view> {
  auto const seen = from.view<std::uint8_t>(count);
  return seen ? fmmap::result<bytes_view>{std::as_bytes(*seen)} : std::unexpected(seen.error());
}

// One step of a reader. Gives what it has read, or passed over, to be compared.
auto read_step(choices& random, fmmap::byte_reader& from, std::span<std::byte> room) -> fmmap::result<bytes_view> {
  auto const* const at = from.rest().data();
  switch (random.below(6)) {
  case 0:
    return from.bytes(room.size());
  case 1:
    return from.read_until(random.bytes(1)[0]);
  case 2:
    return room.first(from.read_some(room));
  case 3:
    return seen_if(from.read_exactly(room), room);
  case 4:
    return seen_if(from.skip(room.size()), {at, room.size()});
  default:
    return view_step(from, room.size());
  }
}

void run_a_reader(twin& t) {
  auto const range = t.choose_range();
  auto const right = t.part(range);
  auto from = t.file.reader(range);
  expect_done(from, "reader");
  std::array<std::byte, 64> room{};
  for (auto steps = t.random.up_to(8); steps > 0; --steps) {
    auto const at = from->position();
    auto const length = t.random.below(room.size());
    auto const got = read_step(t.random, *from, std::span{room}.first(length));
    if (!got) {
      expect(got.error() == errc::out_of_range && length > right.size() - at, "a reader refuses what there is");
      expect(from->position() == at, "what fails moves a reader");
      expect_done(from->seek(t.random.up_to(right.size())), "seek");
      continue;
    }
    expect(same_bytes(*got, right.subspan(at, got->size())), "a reader gives other bytes");
    expect(from->position() == at + got->size(), "a reader is at another position");
    expect(same_bytes(from->rest(), right.subspan(from->position())), "a reader has another rest");
  }
}

template <class T>
void check_records(fmmap::records<T> const& got, bytes_view right) {
  auto const count = right.size() / sizeof(T);
  expect(got.size() == count, "there is another number of records");
  std::size_t i = 0;
  for (T const record : got) {
    expect(has_bytes(record, right.subspan(i++ * sizeof(T))), "a record is another");
  }
  expect(i == count, "another number of records came");
  expect(count == 0 || has_bytes(got[static_cast<std::ptrdiff_t>(count - 1)], right.subspan((count - 1) * sizeof(T))),
         "the last record is another");
  expect(same_bytes(got.rest(), right.subspan(count * sizeof(T))), "the rest of the records is another");
}

void read_records(twin& t) {
  auto range = t.choose_range();
  range.length = std::min<std::size_t>(range.length, 500); // each is copied out in a debug build
  with_some_type(t.random, [&]<class T>(std::type_identity<T>) {
    check_records<T>(fmmap::records<T>{or_throw(t.file.bytes(range.offset, range.length))}, t.part(range));
  });
}

void read_chunks(twin& t) {
  auto const range = t.choose_range();
  auto const right = t.part(range);
  auto const length = 1 + t.random.length();
  fmmap::chunks const pieces{or_throw(t.file.bytes(range.offset, range.length)),
                             std::max(length, (range.length / 20) + 1)};
  std::size_t at = 0;
  std::size_t count = 0;
  for (auto const piece : pieces) {
    expect(!piece.empty() && same_bytes(piece, right.subspan(at, piece.size())), "a chunk is another");
    at += piece.size();
    ++count;
  }
  expect(at == right.size() && count == pieces.size(), "the chunks are not the whole");
}

// --- what is refused ---

template <class T>
auto typed_access_outside(twin& t, std::uint64_t offset) -> bool {
  return fails(t.file.read<T>(offset), errc::out_of_range) && fails(t.file.write<T>(offset, T{}), errc::out_of_range) &&
         fails(t.file.view<T>(offset, 1), errc::out_of_range) &&
         fails(t.file.writable_view<T>(offset, 1), errc::out_of_range);
}

void access_objects_outside(twin& t) {
  auto const least = t.size() - std::min<std::uint64_t>(t.size(), 3);
  auto const offset = t.random.one_in(3) ? UINT64_MAX - t.random.below(20) : least + t.random.below(page);
  t.past.note(offset);
  expect(typed_access_outside<std::uint32_t>(t, offset) && typed_access_outside<point>(t, offset) &&
             typed_access_outside<unsigned __int128>(t, offset),
         "access to an object outside was not refused");
  expect(fails(t.file.read_le<double>(offset), errc::out_of_range) &&
             fails(t.file.read_be<double>(offset), errc::out_of_range) &&
             fails(t.file.write_le<double>(offset, 1.5), errc::out_of_range) &&
             fails(t.file.write_be<double>(offset, 1.5), errc::out_of_range),
         "access to a number outside was not refused");
  t.compare_all();
}

void read_outside(twin& t) {
  auto const range = t.choose_outside();
  t.expect_refused(t.file.bytes(range.offset, range.length), errc::out_of_range, "bytes");
  t.expect_refused(t.file.to_vector(range), errc::out_of_range, "to_vector");
  t.expect_refused(t.file.reader(range), errc::out_of_range, "reader");
  t.expect_refused(t.file.copy_to(t.folder / "none", range), errc::out_of_range, "copy_to");
  t.expect_refused(t.file.share(range), errc::out_of_range, "share");
  expect(!std::filesystem::exists(t.folder / "none"), "a refused copy left a file");
  if (range.length <= 2 * page) {
    std::array<std::byte, 2 * page> out{};
    t.expect_refused(t.file.read_exactly(range.offset, std::span{out}.first(range.length)), errc::out_of_range,
                     "read_exactly");
  }
  t.compare_all();
}

void write_outside(twin& t) {
  auto const range = t.choose_outside();
  t.expect_refused(t.file.writable_bytes(range.offset, range.length), errc::out_of_range, "writable_bytes");
  t.expect_refused(t.file.writer(range), errc::out_of_range, "writer");
  t.expect_refused(t.file.fill(range, std::byte{7}), errc::out_of_range, "fill");
  t.expect_refused(t.file.zero(range), errc::out_of_range, "zero");
  t.expect_refused(t.file.discard(range), errc::out_of_range, "discard");
  t.expect_refused(t.file.flush(range), errc::out_of_range, "flush");
  t.expect_refused(t.file.stage_flush(range), errc::out_of_range, "stage_flush");
  t.expect_refused(t.file.advise(fmmap::advice::random, range), errc::out_of_range, "advise");
  if (range.length <= 2 * page) {
    t.expect_refused(t.file.write_exactly(range.offset, t.random.bytes(range.length)), errc::out_of_range,
                     "write_exactly");
  }
  t.compare_all();
}

void change_what_is_protected(twin& t) {
  expect_done(t.file.protect(access::read_only), "protect");
  auto const bytes = t.random.bytes(20);
  expect(t.file.writable_bytes().empty() && t.file.write_at(0, bytes) == 0, "protected bytes can be written");
  t.expect_refused(t.file.write_exactly(0, bytes), errc::read_only, "write_exactly");
  t.expect_refused(t.file.write<int>(0, 1), errc::read_only, "write");
  t.expect_refused(t.file.write_le<int>(0, 1), errc::read_only, "write_le");
  t.expect_refused(t.file.writable_bytes(0, t.size() + 1), errc::read_only, "writable_bytes");
  t.expect_refused(t.file.fill(fmmap::whole, bytes[0]), errc::read_only, "fill");
  t.expect_refused(t.file.writer(), errc::read_only, "writer");
  t.expect_refused(t.file.writable_view<char>(), errc::read_only, "writable_view");
  t.expect_refused(t.file.append(bytes), errc::read_only, "append");
  t.expect_refused(t.file.resize(t.size() / 2), errc::read_only, "resize");
  t.expect_refused(t.file.resize(t.size() + 1), errc::read_only, "resize");
  if (t.random.one_in(2)) {
    reserve(t);
  }
  t.compare_all();
  expect_done(t.file.protect(access::read_write), "protect");
  expect(t.file.writable_bytes().size() == t.size(), "the bytes cannot be written again");
}

// --- pages, and what else is there of the file ---

void discard(twin& t) {
  auto const range = t.choose_range();
  expect_done(t.file.discard(range), "discard");
  auto const begin = (range.offset + page - 1) / page * page;
  auto const end = (range.offset + range.length) / page * page;
  if (begin < end) {
    std::ranges::fill(std::span{t.expected}.subspan(begin, end - begin), std::byte{0});
  }
  t.compare(range);
}

void flush(twin& t) {
  auto const range = t.random.one_in(4) ? fmmap::whole : t.choose_range();
  auto const level =
      t.random.one_in(100) ? static_cast<durability>(t.random.up_to(4)) : static_cast<durability>(t.random.up_to(2));
  t.past.note(static_cast<std::uint64_t>(level));
  auto const reached = t.file.flush(range, level);
  if (t.in_memory && level != durability::none) {
    return t.expect_refused(reached, errc::not_durable, "flush");
  }
  expect_done(reached, "flush");
  expect(*reached >= level, "a flush says that it has not reached what was asked for");
}

// A flush that other operations come before the end of: the mapping may move, shrink or go meanwhile.
void stage_or_run_a_flush(twin& t) {
  if (t.staged) {
    expect_done(t.staged->run(), "the run of a flush");
    expect(fails(t.staged->run(), errc::already_run), "a flush ran twice");
    return t.staged.reset();
  }
  auto const level = static_cast<durability>(t.random.up_to(2));
  auto job = t.file.stage_flush(t.choose_range(), level);
  if (t.in_memory && level != durability::none) {
    return t.expect_refused(job, errc::not_durable, "stage_flush");
  }
  expect_done(job, "stage_flush");
  t.staged = std::move(*job);
}

void rewrite(twin& t) {
  auto const range = t.choose_range();
  auto const reached = t.file.rewrite(range);
  t.in_memory ? t.expect_refused(reached, errc::not_durable, "rewrite") : expect_done(reached, "rewrite");
  t.compare(range);
}

void advise(twin& t) {
  constexpr std::array harmless{fmmap::advice::normal,        fmmap::advice::sequential, fmmap::advice::random,
                                fmmap::advice::will_need,     fmmap::advice::dont_need,  fmmap::advice::populate_read,
                                fmmap::advice::populate_write};
  auto const range = t.choose_range();
  auto const what = harmless[t.random.below(harmless.size())];
  t.past.note(static_cast<std::uint64_t>(what));
  expect_done(t.file.advise(what, range), "advise");
  t.compare(range);
}

// Bytes that stay mapped whatever becomes of the mapping, until the file is cut off below them.
void share_or_compare_shared(twin& t) {
  if (!t.shared) {
    auto const range = t.choose_range();
    auto part = t.file.share(range);
    expect_done(part, "share");
    t.shared = std::move(*part);
    t.shared_at = range.offset;
    return;
  }
  auto const bytes = t.shared->bytes();
  auto const left = t.shared_at >= t.size() ? 0 : std::min<std::uint64_t>(bytes.size(), t.size() - t.shared_at);
  expect(left == 0 || same_bytes(bytes.first(left), t.part({.offset = t.shared_at, .length = left})),
         "shared bytes are others");
  t.shared.reset();
}

// --- another life of the file ---

void move(twin& t) {
  auto const* const data = t.file.bytes().data();
  auto const capacity = t.file.capacity();
  auto other = std::move(t.file);
  expect(!t.file.is_open() && fails(t.file.bytes(0, 0), errc::closed), "what was moved from is open");
  if (t.random.one_in(2)) {
    t.file = std::move(other);
  } else {
    mutable_mapped_file third;
    third = std::move(other);
    t.file = std::move(third);
  }
  expect(t.file.bytes().data() == data && t.file.capacity() == capacity, "moving the object moved the bytes");
  t.compare_all();
}

auto options_for_reopening(twin& t) -> fmmap::write_options {
  t.may_move = !t.random.one_in(4);
  auto const reserve = t.random.one_in(2) ? 0 : t.random.near_pages(2 * usual_most);
  t.past.note(reserve);
  return {.reserve = reserve, .may_move = t.may_move, .populate = t.random.one_in(4)};
}

// A handle of the same file, which a file in memory lives on in.
auto second_handle(twin const& t) -> fmmap::file {
  if (!t.in_memory) {
    return or_throw(fmmap::file::open(t.path, {.access = access::read_write}));
  }
  auto const descriptor = ::open(t.path.c_str(), O_RDWR | O_CLOEXEC);
  expect(descriptor >= 0, "the file in memory cannot be opened");
  return or_throw(fmmap::file::adopt(descriptor)); // which sees that it is in memory
}

void check_reopened(twin& t) {
  t.find_path();
  ++t.reopened;
  t.compare_all();
  t.compare_file();
  t.check_blocks();
}

void reopen_by_adopting(twin& t) {
  auto kept = second_handle(t);
  expect_done(t.file.close(), "close");
  auto again = mutable_mapped_file::adopt(std::move(kept), options_for_reopening(t));
  expect_done(again, "adopt");
  t.file = std::move(*again);
  check_reopened(t);
}

void reopen(twin& t) {
  if (t.in_memory) {
    return reopen_by_adopting(t);
  }
  if (t.random.one_in(2)) {
    expect_done(t.file.close(), "close");
  } else {
    t.file = {};
  }
  t.compare_file();
  t.check_blocks();
  auto const options = options_for_reopening(t);
  auto again = t.random.one_in(2) ? mutable_mapped_file::open(t.path, options)
                                  : mutable_mapped_file::open_existing(t.path, options);
  expect_done(again, "open");
  t.file = std::move(*again);
  check_reopened(t);
}

// By assignment, which ends what the object held.
void open_over(twin& t) {
  auto again = mutable_mapped_file::adopt(second_handle(t), options_for_reopening(t));
  expect_done(again, "adopt");
  t.file = std::move(*again);
  check_reopened(t);
}

void freeze(twin& t) {
  auto kept = second_handle(t);
  auto const* const data = t.file.bytes().data();
  {
    auto frozen = std::move(t.file).freeze();
    expect_done(frozen, "freeze");
    expect(!t.file.is_open(), "what was frozen is open");
    expect(frozen->bytes().data() == data, "freezing moved the bytes");
    expect(same_bytes(frozen->bytes(), t.expected), "what was frozen has other bytes");
    expect_done(frozen->close(), "the close of what was frozen");
  }
  auto again = mutable_mapped_file::adopt(std::move(kept), options_for_reopening(t));
  expect_done(again, "adopt");
  t.file = std::move(*again);
  check_reopened(t);
}

void copy_to_a_file(twin& t) {
  auto const range = t.choose_range();
  auto const copy = t.folder / "copy";
  expect_done(t.file.copy_to(copy, range), "copy_to");
  expect(fails(t.file.copy_to(copy), std::errc::file_exists), "a copy took the place of a file");
  expect(same_bytes(plain_read(copy), t.part(range)), "a copy has other bytes");
  std::filesystem::remove(copy);
}

// One change of a copy that is not to reach the file.
void change_the_copy(twin& t, mutable_mapped_file& copy, std::vector<std::byte>& expected) {
  auto const range = t.choose_range();
  auto const bytes = t.random.bytes(range.length);
  auto const target = std::span{expected}.subspan(range.offset, range.length);
  switch (t.random.below(3)) {
  case 0:
    expect_done(copy.write_exactly(range.offset, bytes), "write_exactly to a copy");
    std::ranges::copy(bytes, target.begin());
    break;
  case 1:
    expect_done(copy.fill(range, std::byte{0x77}), "fill of a copy");
    std::ranges::fill(target, std::byte{0x77});
    break;
  default: {
    expect_done(copy.discard(range), "discard of a copy");
    auto const begin = (range.offset + page - 1) / page * page;
    auto const end = std::max(begin, (range.offset + range.length) / page * page);
    if (begin < end) { // they read as the file does
      std::ranges::copy(t.part({.offset = begin, .length = end - begin}),
                        expected.begin() + static_cast<std::ptrdiff_t>(begin));
    }
  }
  }
  expect(same_bytes(copy.bytes(), expected), "a copy has other bytes");
}

void change_copy_on_write(twin& t) {
  auto copy = mutable_mapped_file::open_copy_on_write(t.path, {.populate = t.random.one_in(4)});
  expect_done(copy, "open_copy_on_write");
  auto expected = t.expected;
  for (auto changes = t.random.up_to(4); changes > 0; --changes) {
    change_the_copy(t, *copy, expected);
  }
  expect(fails(copy->append(t.random.bytes(3)), errc::copy_on_write), "a copy was appended to");
  expect(fails(copy->resize(0), errc::copy_on_write), "a copy was resized");
  expect(fails(copy->flush(), errc::copy_on_write), "a copy was flushed");
  expect_done(copy->close(), "the close of a copy");
  t.compare_all();
  t.compare_file();
}

struct operation {
  std::string_view name;
  unsigned weight; // how often, in proportion
  void (*run)(twin&);
};

// What costs much on a disk is rare.
constexpr auto operations = std::to_array<operation>({
    {"append", 90, append},
    {"append what it has", 6, append_what_it_has},
    {"resize", 10, resize},
    {"resize a little", 30, resize_a_little},
    {"resize durably", 1, resize_durably},
    {"reserve", 3, reserve},
    {"shrink_to_fit", 6, shrink_to_fit},
    {"write_at", 80, write_at},
    {"write_exactly", 60, write_exactly},
    {"write an object", 60, write_object},
    {"write a number", 80, write_number},
    {"fill", 20, fill},
    {"zero", 10, zero},
    {"store", 30, store},
    {"store past the end", 10, store_past_the_end},
    {"store through a view", 30, store_through_a_view},
    {"run a writer", 50, run_a_writer},
    {"read bytes", 40, read_bytes},
    {"read an object", 50, read_object},
    {"read a number", 60, read_number},
    {"view objects", 40, view_objects},
    {"read_at", 30, read_at},
    {"read_exactly", 30, read_exactly},
    {"copy to a vector", 20, copy_to_a_vector},
    {"run a reader", 40, run_a_reader},
    {"read records", 10, read_records},
    {"read chunks", 20, read_chunks},
    {"access objects outside", 10, access_objects_outside},
    {"read outside", 10, read_outside},
    {"write outside", 10, write_outside},
    {"change what is protected", 3, change_what_is_protected},
    {"discard", 10, discard},
    {"flush", 3, flush},
    {"stage or run a flush", 3, stage_or_run_a_flush},
    {"rewrite", 1, rewrite},
    {"advise", 10, advise},
    {"share or compare shared", 8, share_or_compare_shared},
    {"move", 10, move},
    {"reopen", 3, reopen},
    {"reopen by adopting", 1, reopen_by_adopting},
    {"open over", 1, open_over},
    {"freeze", 2, freeze},
    {"copy to a file", 2, copy_to_a_file},
    {"change copy-on-write", 2, change_copy_on_write},
});

constexpr auto weight_of_all = std::transform_reduce(operations.begin(), operations.end(), 0U, std::plus<>{},
                                                     [](operation const& one) { return one.weight; });

auto choose_operation(choices& random) -> operation const& {
  auto left = random.below(weight_of_all);
  for (auto const& one : operations) {
    if (left < one.weight) {
      return one;
    }
    left -= one.weight;
  }
  return operations.front();
}

void run(twin& t, std::uint64_t count) {
  while (t.past.count() < count) {
    auto const& next = choose_operation(t.random);
    t.past.begin(next.name);
    next.run(t);
    expect(t.file.size() == t.size(), "the size is another");
    if (t.past.count() % 1000 == 0) {
      t.compare_all();
      t.compare_file();
    }
  }
  t.past.begin("the end");
  reopen(t);
}

// A tenth of `share` operations under sanitizers.
void follow_the_model(std::string_view name, std::filesystem::path const& folder, bool in_memory, std::uint64_t share) {
  auto const seed = seed_of_this_run();
  auto const count = sanitized ? share / 10 : share;
  twin t{folder, in_memory, seed + std::hash<std::string_view>{}(name)};
  try {
    run(t, count);
  } catch (std::exception const& wrong) {
    BOOST_ERROR(name << ", FMMAP_SEED=" << seed << ", operation " << t.past.count() << ", " << t.size()
                     << " bytes: " << wrong.what() << "; the last ones:" << t.past.text());
  }
  std::cout << name << ": operations " << count << ", reopened " << t.reopened << ", moved " << t.moved << ", seed "
            << seed << std::endl;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_mutable_mapped_file_behaves_like_a_vector_of_bytes)

BOOST_AUTO_TEST_CASE(through_random_operations_on_a_disk) {
  scratch const s;
  follow_the_model("on a disk", s.folder(), false, 100'000);
}

BOOST_AUTO_TEST_CASE(through_random_operations_in_a_folder_in_memory) {
  scratch const s{memory_folder()};
  follow_the_model("in a folder in memory", s.folder(), false, 450'000);
}

BOOST_AUTO_TEST_CASE(through_random_operations_on_a_file_without_a_name) {
  scratch const s{memory_folder()};
  follow_the_model("without a name", s.folder(), true, 450'000);
}

BOOST_AUTO_TEST_SUITE_END()
