// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <sys/sysmacros.h>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Words of a line that are parted by blanks.
auto next_word(std::string_view& rest) -> std::string_view {
  rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(" \t")));
  auto const word = rest.substr(0, rest.find_first_of(" \t"));
  rest.remove_prefix(word.size());
  return word;
}

template <class Number>
auto number_in(std::string_view text, int base = 10) -> std::optional<Number> {
  Number value{};
  auto const read = std::from_chars(text.begin(), text.end(), value, base);
  return read.ec == std::errc{} && read.ptr == text.end() ? std::optional{value} : std::nullopt;
}

auto text_of(file_view const& view) -> std::string_view {
  return {reinterpret_cast<char const*>(view.bytes().data()), view.bytes().size()};
}

// The value of a line "name: value" of a file of /proc.
auto field(std::string_view text, std::string_view name) -> std::string_view {
  for (auto line : lines{text}) {
    if (line.starts_with(name) && line.substr(name.size()).starts_with(':')) {
      line.remove_prefix(name.size() + 1);
      return next_word(line);
    }
  }
  return {};
}

// A file as /proc/locks calls it: the file system's own device, which stat(2) does not tell of btrfs and overlayfs.
struct locked_inode {
  std::uint32_t major = 0;
  std::uint32_t minor = 0;
  std::uint64_t inode = 0;

  auto operator==(locked_inode const&) const -> bool = default;
};

// major:minor, and with `base` 16 what /proc/locks has, major:minor:inode with the inode in decimal.
auto device_in(std::string_view text, int base) -> std::optional<locked_inode> {
  auto const first = text.find(':');
  if (first == std::string_view::npos) {
    return std::nullopt;
  }
  auto const second = text.find(':', first + 1);
  auto const major = number_in<std::uint32_t>(text.substr(0, first), base);
  auto const minor = number_in<std::uint32_t>(text.substr(first + 1, second - first - 1), base);
  auto const inode = second == std::string_view::npos ? std::optional<std::uint64_t>{0}
                                                      : number_in<std::uint64_t>(text.substr(second + 1));
  if (!major || !minor || !inode) {
    return std::nullopt;
  }
  return locked_inode{.major = *major, .minor = *minor, .inode = *inode};
}

// The device of the file system that a mount is of.
auto device_of_mount(std::string_view mount) -> std::optional<locked_inode> {
  auto const mounts = file_view::open("/proc/self/mountinfo");
  if (!mounts) {
    return std::nullopt;
  }
  for (auto line : lines{text_of(*mounts)}) {
    if (next_word(line) == mount) {
      next_word(line); // the mount it is on
      return device_in(next_word(line), 10);
    }
  }
  return std::nullopt;
}

auto inode_of(file const& of) -> locked_inode {
  auto const identity = of.identity();
  locked_inode found{.major = ::major(identity.device), .minor = ::minor(identity.device), .inode = identity.inode};
  auto const info = file_view::open("/proc/self/fdinfo/" + std::to_string(of.native_handle()));
  if (!info) {
    return found;
  }
  if (auto const device =
          device_of_mount(field(text_of(*info), "mnt_id"))) { // files in memory are on none that is listed
    found.major = device->major;
    found.minor = device->minor;
  }
  found.inode = number_in<std::uint64_t>(field(text_of(*info), "ino")).value_or(identity.inode); // Linux 5.14
  return found;
}

// A lock as a line of /proc/locks or fdinfo has it: "1: OFDLCK ADVISORY WRITE -1 fe:00:1234 0 EOF".
struct lock_line {
  lock_holder holder;
  locked_inode inode;
};

auto parse(std::string_view line) -> std::optional<lock_line> {
  next_word(line); // its number
  auto const kind = next_word(line);
  next_word(line); // advisory
  auto const mode = next_word(line);
  auto const process = number_in<int>(next_word(line));
  auto const inode = device_in(next_word(line), 16);
  auto const begin = number_in<std::uint64_t>(next_word(line));
  auto const last = next_word(line);
  auto const end = number_in<std::uint64_t>(last);
  auto const known = kind == "OFDLCK" || kind == "POSIX" || kind == "FLOCK"; // neither "->", who waits, nor a lease
  if (!known || !inode || !begin || (!end && last != "EOF") || (end && *end < *begin)) {
    return std::nullopt;
  }
  return lock_line{
      .holder = {.mode = mode == "WRITE" ? lock_mode::exclusive : lock_mode::shared,
                 .range = {.offset = *begin, .length = end ? static_cast<std::size_t>(*end - *begin) + 1 : to_end},
                 .kind = kind == "OFDLCK"  ? lock_kind::open_file_description
                         : kind == "FLOCK" ? lock_kind::flock
                                           : lock_kind::process,
                 .process = process && *process > 0 ? process : std::nullopt},
      .inode = *inode};
}

// What tells the locks of a file apart, as far as they can be told apart from outside.
auto key_of(lock_holder const& holder) {
  return std::tuple{holder.kind, holder.mode, holder.range.offset, holder.range.length};
}

// The names in a directory that are numbers. What cannot be listed has none.
auto numbers_in(std::filesystem::path const& path) -> std::vector<std::string> {
  std::vector<std::string> found;
  auto const directory = file::open(path, {.any_type = true});
  if (!directory) {
    return found;
  }
  alignas(8) std::array<std::byte, 4096> entries{};
  while (true) {
    auto const got = os::retry([&] { return os::read_directory(directory->native_handle(), entries); });
    if (!got || *got == 0) {
      return found;
    }
    for (std::size_t at = 0; at < *got;) {
      constexpr std::size_t length_at = 16; // getdents64(2): d_ino, d_off, d_reclen, d_type, d_name
      constexpr std::size_t name_at = 19;
      std::uint16_t length = 0;
      std::memcpy(&length, entries.data() + at + length_at, sizeof length);
      std::string_view const name{reinterpret_cast<char const*>(entries.data() + at + name_at)};
      if (number_in<int>(name)) {
        found.emplace_back(name);
      }
      at += length;
    }
  }
}

// Puts a process's number to the locks that its descriptors show.
void look_at(std::string const& process, locked_inode const& inode, std::vector<lock_holder>& holders) {
  auto const folder = std::filesystem::path{"/proc"} / process / "fdinfo";
  for (auto const& descriptor : numbers_in(folder)) {
    auto const info = file_view::open(folder / descriptor);
    if (!info) {
      continue;
    }
    for (auto line : lines{text_of(*info)}) {
      if (!line.starts_with("lock:")) {
        continue;
      }
      line.remove_prefix(line.find(':') + 1);
      auto const lock = parse(line);
      if (!lock || !(lock->inode == inode)) {
        continue;
      }
      auto const match = std::ranges::find_if(holders, [&](lock_holder const& holder) {
        return !holder.process && key_of(holder) == key_of(lock->holder);
      });
      if (match != holders.end()) {
        match->process = number_in<int>(process);
      }
    }
  }
}

// Puts processes to locks of open file descriptions, of which /proc/locks knows none.
void find_processes(locked_inode const& inode, std::vector<lock_holder>& holders) {
  auto const all_known = [&] {
    return std::ranges::all_of(holders, [](auto const& h) { return h.process.has_value(); });
  };
  auto const self = std::to_string(os::process_id());
  if (!all_known()) {
    look_at(self, inode, holders);
  }
  if (all_known()) {
    return;
  }
  for (auto const& process : numbers_in("/proc")) {
    if (process != self) {
      look_at(process, inode, holders);
    }
    if (all_known()) {
      return;
    }
  }
}

// One lock, from the system's answer to what an exclusive lock would wait for.
auto ask_for_one(file const& of) -> result<std::vector<lock_holder>> {
  auto const found = os::retry([&] { return os::find_lock(of.native_handle(), {}); });
  if (!found) {
    return failure(found.error(), "find the locks of", of.path());
  }
  std::vector<lock_holder> holders;
  if (std::optional<os::lock_in_the_way> const lock = *found) {
    auto const of_process = lock->process > 0;
    holders.push_back(
        {.mode = lock->mode == os::locking::exclusive ? lock_mode::exclusive : lock_mode::shared,
         .range = {.offset = lock->range.offset,
                   .length = lock->range.length == 0 ? to_end : static_cast<std::size_t>(lock->range.length)},
         .kind = of_process ? lock_kind::process : lock_kind::open_file_description,
         .process = of_process ? std::optional{lock->process} : std::nullopt});
  }
  return holders;
}

// Whether a lock of one kind keeps out those of the other, on file systems of this machine.
auto know_each_other(lock_kind a, lock_kind b) -> bool { return (a == lock_kind::flock) == (b == lock_kind::flock); }

auto place_of(lock_holder const& holder) {
  return std::tuple{holder.range.offset, holder.range.length, holder.kind, holder.mode, holder.process};
}

// The text of /proc/locks. One read gives lines of one moment, as many as fit into a page, so that after a shorter one there
// are none left: asking for more would repeat lines that locks made since have moved.
auto all_locks() -> std::optional<std::string> {
  constexpr std::size_t page = 4096;
  constexpr std::size_t longest_line = 256;
  auto const list = file::open("/proc/locks");
  if (!list) {
    return std::nullopt;
  }
  std::string text;
  std::array<char, 16 * page> lines_read{};
  while (true) {
    auto const got =
        os::retry([&] { return os::read(list->native_handle(), std::as_writable_bytes(std::span{lines_read})); });
    if (!got) {
      return std::nullopt;
    }
    auto const first = text.empty();
    text.append(lines_read.data(), *got);
    if (*got == 0 || (first && *got < page - longest_line && text.ends_with('\n'))) {
      return text;
    }
  }
}

// The locks of a file that /proc/locks lists, ordered; nothing where it is not there.
auto listed_locks(locked_inode const& inode) -> std::optional<std::vector<lock_holder>> {
  auto const all = all_locks();
  if (!all) {
    return std::nullopt;
  }
  std::vector<lock_holder> holders;
  for (auto const line : lines{*all}) {
    if (auto const lock = parse(line); lock && lock->inode == inode) {
      holders.push_back(lock->holder);
    }
  }
  std::ranges::sort(holders, {}, place_of);
  return holders;
}

auto overlap(byte_range a, byte_range b) -> bool {
  auto const ends_before = [](byte_range first, std::uint64_t offset) {
    return first.length != to_end && first.offset + first.length <= offset;
  };
  return !ends_before(a, b.offset) && !ends_before(b, a.offset);
}

} // namespace

auto who_holds(file const& of) -> result<std::vector<lock_holder>> {
  if (!of.is_open()) {
    return failure(errc::closed, "find the locks of a file");
  }
  auto const inode = inode_of(of);
  auto holders = listed_locks(inode);
  // Where they take several reads, locks that come and go between those move others: one may be missing, or be there twice.
  // Hardly in the same way two times in a row.
  constexpr int most_tries = 8;
  for (int tries = 1; holders && tries < most_tries; ++tries) {
    auto again = listed_locks(inode);
    if (again == holders) {
      break;
    }
    holders = std::move(again);
  }
  if (!holders) {
    return ask_for_one(of);
  }
  find_processes(inode, *holders);
  std::ranges::sort(*holders, {}, place_of);
  return std::move(*holders);
}

auto describe_holders(file const& of, file_lock const& lock, lock_mode mode) -> std::string {
  auto const holders = who_holds(of);
  if (!holders) {
    return {};
  }
  for (auto const& holder : *holders) {
    auto const excludes = holder.mode == lock_mode::exclusive || mode == lock_mode::exclusive;
    if (holder.process && excludes && know_each_other(holder.kind, lock.kind()) &&
        overlap(holder.range, lock.range())) {
      return "process " + std::to_string(*holder.process) + " has " +
             (holder.mode == lock_mode::exclusive ? "an exclusive" : "a shared") + " lock";
    }
  }
  return {};
}

} // namespace fmmap
