// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process.hpp"
#include "scratch.hpp"

// The power-loss model: a scenario runs once, and everything it does to its folder is recorded, by looking at the folder
// before and after each of its system calls. From the record come the histories: for every moment at which power could have
// failed, the images that could then be on the disk. The rules:
//
// 1. A page is durable when a successful fsync, fdatasync or msync(MS_SYNC) that was entered after the store has covered
//    it. Otherwise it has any version since its last durable one, each page independently, or a mixture of two of them in
//    sectors of 512 bytes. sync_file_range, madvise, munmap and close make nothing durable.
// 2. A size is a matter of its own: a file may have a new size without the new bytes, which are zeros then. One that grows
//    may be found at any page border between. fsync and fdatasync make the size durable, msync as far as its range reaches
//    (msync(2) of Linux is vfs_fsync_range with datasync). What shrinking has cut off stays cut off when a later size is
//    found: file systems order the two.
// 3. Names become durable by fsync of their directory, or by syncfs. Otherwise a change of a name may have happened or
//    not, independently of those of other names, after those of the same name. A rename is one change of two names. It may
//    be found without the content of the file.
// 4. A failed sync may have written any of its pages and has made all of them clean: no later sync makes durable what was
//    there when it failed.
//
// A scenario makes its calls on one thread. A store of the bytes that are already there is not seen.
export module fmmap.test.l1;

import fmmap.core;
import fmmap.os;
import fmmap.test.crash;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace l1 {

constexpr std::size_t page_size = 4096;
constexpr std::size_t sector_size = 512;

using file_number = std::uint64_t; // the inode
using page_bytes = std::shared_ptr<std::string const>;
using directory = std::map<std::string, file_number>; // names of all folders, by their paths
using name_changes = std::map<std::string, std::optional<file_number>>;

// The record.

struct page_stored {
  file_number file;
  std::size_t page;
  page_bytes bytes;
};

struct size_changed {
  file_number file;
  std::uint64_t size;
};

struct names_changed { // at once
  name_changes names;
};

struct pages {
  std::size_t begin = 0;
  std::size_t end = std::numeric_limits<std::size_t>::max();
};

struct synced {
  file_number file;
  std::optional<pages> range; // nothing for the whole file
  bool failed = false;
};

struct folder_synced {
  std::string folder; // its path; empty for the outermost
};

struct all_synced {};

using change = std::variant<page_stored, size_changed, names_changed, synced, folder_synced, all_synced>;

// What happened between two moments at which power can fail.
struct step {
  std::string after; // the call or expectation that ends it
  std::vector<change> changes;
  std::size_t expectation; // in force from here on
};

struct record {
  std::vector<step> steps;
  std::vector<crash::expectation> expectations;
};

auto folder_of(std::string const& name) -> std::string {
  auto const slash = name.rfind('/');
  return slash == std::string::npos ? std::string{} : name.substr(0, slash);
}

auto zero_page() -> page_bytes const& {
  static auto const page = std::make_shared<std::string const>(page_size, '\0');
  return page;
}

auto page_count(std::uint64_t size) -> std::size_t {
  return static_cast<std::size_t>((size + page_size - 1) / page_size);
}

// A descriptor of the recorder's own, past the seam.
class own_descriptor {
public:
  explicit own_descriptor(int value) noexcept : value_{value} {}
  own_descriptor(own_descriptor&& other) noexcept : value_{std::exchange(other.value_, -1)} {}
  auto operator=(own_descriptor&&) -> own_descriptor& = delete;
  ~own_descriptor() {
    if (value_ >= 0) {
      ::close(value_);
    }
  }
  [[nodiscard]] auto get() const noexcept -> int { return value_; }

private:
  int value_;
};

auto status_of(int descriptor) -> struct stat {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) {
    throw std::system_error{errno, std::system_category(), "fstat"};
  }
  return status;
}

// Writes down what happens to a folder.
class recorder {
public:
  explicit recorder(std::filesystem::path folder) : folder_{std::move(folder)} {
    device_ = status_of(own_descriptor{::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)}.get()).st_dev;
    look();
    changes_.emplace_back(all_synced{});
  }

  void observe(seam::observation const& seen) {
    if (!seen.over) {
      look(); // what was stored since the last call
      if (!changes_.empty()) {
        end_step("stores before " + std::string{os::name_of(seen.which)});
      }
      mapped_ = seen.which == os::call::msync ? mapped_part(seen.about) : std::nullopt;
      return;
    }
    if (seen.which == os::call::openat || seen.which == os::call::openat2) {
      find_nameless();
    }
    note_sync(seen);
    look();
    if (!changes_.empty()) {
      end_step(std::string{os::name_of(seen.which)});
    }
  }

  void expect(crash::expectation const& from_now_on) {
    look();
    if (!changes_.empty() && !written_.expectations.empty()) {
      end_step("stores");
    }
    written_.expectations.push_back(from_now_on);
    end_step("expectation " + std::to_string(written_.expectations.size()));
  }

  [[nodiscard]] auto finish() && -> record { return std::move(written_); }

private:
  struct watched {
    own_descriptor descriptor; // keeps the inode's number from being used again
    std::uint64_t size = 0;
    std::string bytes = {}; // in whole pages
  };

  void end_step(std::string after) {
    if (written_.expectations.empty()) {
      throw std::logic_error{"the scenario does something before it expects anything"};
    }
    written_.steps.push_back({.after = std::move(after),
                              .changes = std::exchange(changes_, {}),
                              .expectation = written_.expectations.size() - 1});
  }

  void look() {
    auto names = directory{};
    for (auto const& entry : std::filesystem::recursive_directory_iterator{folder_}) {
      if (entry.is_regular_file() && !entry.is_symlink()) {
        names.emplace(entry.path().lexically_relative(folder_).string(), watch(entry.path().c_str()));
      }
    }
    for (auto& [number, file] : files_) {
      compare(number, file);
    }
    name_changes changed;
    for (auto const& [name, number] : names) {
      if (auto const before = names_.find(name); before == names_.end() || before->second != number) {
        changed.emplace(name, number);
      }
    }
    for (auto const& [name, number] : names_) {
      if (!names.contains(name)) {
        changed.emplace(name, std::nullopt);
      }
    }
    if (!changed.empty()) {
      changes_.emplace_back(names_changed{std::move(changed)});
    }
    names_ = std::move(names);
  }

  auto watch(char const* path) -> file_number {
    own_descriptor opened{::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    auto const number = static_cast<file_number>(status_of(opened.get()).st_ino);
    files_.emplace(number, watched{.descriptor = std::move(opened)});
    return number;
  }

  // Files without a name, which only their descriptors lead to.
  void find_nameless() {
    for (auto const& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
      struct stat status{};
      if (::stat(entry.path().c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0 &&
          status.st_dev == device_ && !files_.contains(status.st_ino)) {
        watch(entry.path().c_str());
      }
    }
  }

  void compare(file_number number, watched& file) {
    auto const size = static_cast<std::uint64_t>(status_of(file.descriptor.get()).st_size);
    if (size != file.size) {
      changes_.emplace_back(size_changed{.file = number, .size = size});
    }
    if (size < file.size) { // as the model cuts
      file.bytes.resize(static_cast<std::size_t>(size));
      file.bytes.resize(page_count(size) * page_size);
    }
    file.size = size;
    std::string now(page_count(size) * page_size, '\0');
    auto const got = ::pread(file.descriptor.get(), now.data(), static_cast<std::size_t>(size), 0);
    if (got != static_cast<ssize_t>(size)) {
      throw std::runtime_error{"cannot read a file of the scenario"};
    }
    file.bytes.resize(now.size());
    for (std::size_t page = 0; page < page_count(size); ++page) {
      auto const there = std::string_view{now}.substr(page * page_size, page_size);
      if (there != std::string_view{file.bytes}.substr(page * page_size, page_size)) {
        changes_.emplace_back(
            page_stored{.file = number, .page = page, .bytes = std::make_shared<std::string const>(there)});
      }
    }
    file.bytes = std::move(now);
  }

  void note_sync(seam::observation const& seen) {
    auto const failed = seen.error != 0;
    switch (seen.which) {
    case os::call::fsync:
    case os::call::fdatasync: {
      auto const status = status_of(seen.about.descriptor);
      if (!S_ISDIR(status.st_mode)) {
        changes_.emplace_back(synced{.file = status.st_ino, .range = {}, .failed = failed});
      } else if (!failed) {
        changes_.emplace_back(folder_synced{path_of(seen.about.descriptor)});
      }
      break;
    }
    case os::call::msync:
      if (mapped_) {
        changes_.emplace_back(synced{.file = mapped_->first, .range = mapped_->second, .failed = failed});
      }
      break;
    case os::call::syncfs:
      if (!failed) {
        changes_.emplace_back(all_synced{});
      }
      break;
    default:
      break;
    }
  }

  auto path_of(int folder) const -> std::string {
    auto const path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(folder));
    auto const inside = path.lexically_relative(std::filesystem::canonical(folder_)).string();
    return inside == "." ? std::string{} : inside;
  }

  // Which file lies at an address, and where in it.
  auto mapped_part(os::subject const& about) const -> std::optional<std::pair<file_number, pages>> {
    auto const address = reinterpret_cast<std::uintptr_t>(about.address);
    auto const maps = read_back("/proc/self/maps");
    for (auto const line : fmmap::lines{maps}) {
      std::uintptr_t begin = 0;
      std::uintptr_t end = 0;
      std::uint64_t offset = 0;
      file_number number = 0;
      std::array<char, 5> protection{};
      if (std::sscanf(std::string{line}.c_str(), "%lx-%lx %4s %lx %*s %lu", &begin, &end, protection.data(), &offset,
                      &number) == 5 &&
          begin <= address && address < end && files_.contains(number)) {
        auto const first = static_cast<std::size_t>((offset + (address - begin)) / page_size);
        return std::pair{number, pages{.begin = first, .end = first + page_count(about.length)}};
      }
    }
    return std::nullopt;
  }

  std::filesystem::path folder_;
  std::uint64_t device_ = 0;
  std::map<file_number, watched> files_;
  directory names_;
  std::vector<change> changes_;
  std::optional<std::pair<file_number, pages>> mapped_; // what the msync under way is about
  record written_;
};

// What may be on the disk.

// The contents a page may have, oldest first; the first is durable. They are numbered over all time.
struct page_versions {
  std::vector<page_bytes> versions{zero_page()};
  std::size_t first = 0;
  std::size_t clean = 0; // those numbered lower were there when a sync failed

  [[nodiscard]] auto last() const -> std::size_t { return first + versions.size() - 1; }

  void keep_from(std::size_t number) {
    auto const gone = std::min(number, last()) - std::min(first, number);
    versions.erase(versions.begin(), versions.begin() + static_cast<std::ptrdiff_t>(gone));
    first += gone;
  }

  void sync() {
    if (last() >= clean) {
      keep_from(last());
    }
  }
};

// A size, and the versions that pages have at least when it is found, from what was cut off on the way to it.
struct size_version {
  std::uint64_t size = 0;
  std::map<std::size_t, std::size_t> cut = {};
};

struct file_state {
  std::vector<page_versions> pages;
  std::vector<size_version> sizes{size_version{}};

  void store(std::size_t page, page_bytes bytes) {
    if (pages.size() <= page) {
      pages.resize(page + 1);
    }
    pages[page].versions.push_back(std::move(bytes));
  }

  void set_size(std::uint64_t size) {
    auto next = size_version{.size = size, .cut = sizes.back().cut};
    auto const before = sizes.back().size;
    for (auto const border : borders_between(before, size)) {
      sizes.push_back({.size = border, .cut = next.cut});
    }
    for (auto page = static_cast<std::size_t>(size / page_size); size < before && page < pages.size(); ++page) {
      auto const kept = page == size / page_size ? static_cast<std::size_t>(size % page_size) : 0;
      auto bytes = pages[page].versions.back()->substr(0, kept);
      bytes.resize(page_size);
      store(page, std::make_shared<std::string const>(std::move(bytes)));
      next.cut[page] = pages[page].last();
    }
    sizes.push_back(std::move(next));
  }

  void sync(std::optional<l1::pages> const& range) {
    auto const part = range.value_or(l1::pages{});
    for (auto page = part.begin; page < std::min(part.end, pages.size()); ++page) {
      pages[page].sync();
    }
    auto const reached = range ? std::min<std::uint64_t>(sizes.back().size, part.end * page_size) : UINT64_MAX;
    auto const last = std::move(sizes.back());
    sizes.pop_back();
    std::erase_if(sizes, [&](size_version const& s) { return s.size < reached; });
    sizes.push_back(last);
    for (auto const& [page, version] : sizes.front().cut) {
      pages[page].keep_from(version);
    }
  }

  void fail_sync(std::optional<l1::pages> const& range) {
    auto const part = range.value_or(l1::pages{});
    for (auto page = part.begin; page < std::min(part.end, pages.size()); ++page) {
      pages[page].clean = pages[page].last() + 1;
    }
  }

  // The first page border after `begin`, one halfway and the last before `end`.
  static auto borders_between(std::uint64_t begin, std::uint64_t end) -> std::set<std::uint64_t> {
    auto const first = (begin / page_size + 1) * page_size;
    if (end <= first) {
      return {};
    }
    auto const last = (end - 1) / page_size * page_size;
    return {first, (first + last) / 2 / page_size * page_size, last};
  }
};

struct disk_state {
  std::map<file_number, file_state> files;
  directory durable_names;
  std::vector<name_changes> pending;

  void apply(change const& what) {
    std::visit([this](auto const& c) { apply_one(c); }, what);
  }

private:
  void apply_one(page_stored const& c) { files[c.file].store(c.page, c.bytes); }
  void apply_one(size_changed const& c) { files[c.file].set_size(c.size); }
  void apply_one(names_changed const& c) {
    for (auto const& [name, number] : c.names) {
      if (number) {
        files.try_emplace(*number);
      }
    }
    pending.push_back(c.names);
  }
  void apply_one(synced const& c) { c.failed ? files[c.file].fail_sync(c.range) : files[c.file].sync(c.range); }
  void apply_one(folder_synced const& c) {
    std::erase_if(pending, [&](name_changes const& changed) {
      if (folder_of(changed.begin()->first) != c.folder) {
        return false;
      }
      put(durable_names, changed);
      return true;
    });
  }
  void apply_one(all_synced const& /*c*/) {
    for (auto& [number, file] : files) {
      file.sync({});
    }
    for (auto const& changed : std::exchange(pending, {})) {
      put(durable_names, changed);
    }
  }

public:
  static void put(directory& into, name_changes const& changed) {
    for (auto const& [name, number] : changed) {
      if (number) {
        into[name] = *number;
      } else {
        into.erase(name);
      }
    }
  }

  // The names there may be: the durable ones first, those with all changes last.
  [[nodiscard]] auto possible_names() const -> std::vector<directory> {
    constexpr std::size_t most_pending = 12;
    if (pending.size() > most_pending) {
      throw std::length_error{"too many changes of names at once"};
    }
    std::vector<directory> found;
    for (std::size_t happened = 0; happened < std::size_t{1} << pending.size(); ++happened) {
      if (!is_in_order(happened)) {
        continue;
      }
      auto names = durable_names;
      for (std::size_t i = 0; i < pending.size(); ++i) {
        if ((happened >> i & 1U) != 0) {
          put(names, pending[i]);
        }
      }
      found.push_back(std::move(names));
    }
    return found;
  }

private:
  // Whether of all changes of the same name the earlier ones have happened too.
  [[nodiscard]] auto is_in_order(std::size_t happened) const -> bool {
    auto const same_name = [](name_changes const& a, name_changes const& b) {
      return std::ranges::any_of(a, [&](auto const& entry) { return b.contains(entry.first); });
    };
    for (std::size_t late = 0; late < pending.size(); ++late) {
      for (std::size_t early = 0; early < late; ++early) {
        auto const late_only = (happened >> late & 1U) != 0 && (happened >> early & 1U) == 0;
        if (late_only && same_name(pending[early], pending[late])) {
          return false;
        }
      }
    }
    return true;
  }
};

// The images of one moment: every dimension is something that has several versions, and an image is a choice of one of
// each.
class histories {
public:
  using choice = std::vector<std::size_t>;

  // Mixes two versions of a page: bit i of `sectors` takes sector i from `other`.
  struct tear {
    std::size_t other;
    unsigned sectors;
  };
  using tears = std::map<std::size_t, tear>; // by dimension

  explicit histories(disk_state const& state) : names_{state.possible_names()} {
    add({}, names_.size());
    std::set<file_number> reachable;
    for (auto const& names : names_) {
      for (auto const& [name, number] : names) {
        if (reachable.insert(number).second) {
          add_file(name, number, state.files.at(number));
        }
      }
    }
    for (std::size_t d = 0; d < dimensions_.size(); ++d) {
      if (dimensions_[d].count > 1) {
        free_.push_back(d);
      }
    }
  }

  // What has more than one version.
  [[nodiscard]] auto free() const -> std::vector<std::size_t> const& { return free_; }
  [[nodiscard]] auto count(std::size_t dimension) const -> std::size_t { return dimensions_[dimension].count; }
  [[nodiscard]] auto is_page(std::size_t dimension) const -> bool { return dimensions_[dimension].page.has_value(); }

  [[nodiscard]] auto oldest() const -> choice { return choice(dimensions_.size(), 0); }
  [[nodiscard]] auto latest() const -> choice {
    choice all;
    for (auto const& d : dimensions_) {
      all.push_back(d.count - 1);
    }
    return all;
  }

  // How many choices there are; `most` when there are more.
  [[nodiscard]] auto total(std::size_t most) const -> std::size_t {
    std::size_t product = 1;
    for (auto const d : free_) {
      product *= count(d);
      if (product >= most) {
        return most;
      }
    }
    return product;
  }

  [[nodiscard]] auto image(choice const& chosen, tears const& torn = {}) const -> crash::image {
    crash::image found;
    for (auto const& [name, number] : names_[chosen[0]]) {
      found.files.emplace_hint(found.files.end(), name, content(files_.at(number), chosen, torn));
    }
    return found;
  }

  // What a choice has lost of the latest state.
  [[nodiscard]] auto describe(choice const& chosen, tears const& torn) const -> std::string {
    std::string text;
    for (auto const d : free_) {
      auto const mixed = torn.contains(d);
      if (chosen[d] + 1 == count(d) && !mixed) {
        continue;
      }
      text += text.empty() ? "" : ", ";
      text += dimensions_[d].text + " is version " + std::to_string(chosen[d] + 1) + " of " + std::to_string(count(d));
      if (mixed) {
        text += " with sectors of version " + std::to_string(torn.at(d).other + 1);
      }
    }
    return text.empty() ? "nothing is lost" : text;
  }

private:
  struct dimension {
    std::string text;
    std::size_t count;
    std::optional<std::size_t> page;
  };
  struct file_view {
    file_state const* state;
    std::size_t size;       // the dimension
    std::size_t first_page; // the dimension of page 0
  };

  void add(std::string text, std::size_t count, std::optional<std::size_t> page = {}) {
    dimensions_.push_back({.text = text.empty() ? "the directory" : std::move(text), .count = count, .page = page});
  }

  void add_file(std::string const& name, file_number number, file_state const& state) {
    files_.emplace(number,
                   file_view{.state = &state, .size = dimensions_.size(), .first_page = dimensions_.size() + 1});
    add("the size of " + name, state.sizes.size());
    for (std::size_t page = 0; page < state.pages.size(); ++page) {
      add("page " + std::to_string(page) + " of " + name, state.pages[page].versions.size(), page);
    }
  }

  static auto content(file_view const& file, choice const& chosen, tears const& torn) -> std::string {
    auto const& size = file.state->sizes[chosen[file.size]];
    std::string bytes;
    bytes.reserve(page_count(size.size) * page_size);
    for (std::size_t page = 0; page < std::min(page_count(size.size), file.state->pages.size()); ++page) {
      auto const& versions = file.state->pages[page];
      auto const cut = size.cut.find(page);
      auto const floor = cut == size.cut.end() ? 0 : cut->second - std::min(cut->second, versions.first);
      auto const dimension = file.first_page + page;
      bytes += *versions.versions[std::max(chosen[dimension], floor)];
      if (auto const mixed = torn.find(dimension); mixed != torn.end()) {
        auto const& other = *versions.versions[std::max(mixed->second.other, floor)];
        for (std::size_t sector = 0; sector < page_size / sector_size; ++sector) {
          if ((mixed->second.sectors >> sector & 1U) != 0) {
            bytes.replace(page * page_size + sector * sector_size, sector_size, other, sector * sector_size,
                          sector_size);
          }
        }
      }
    }
    bytes.resize(static_cast<std::size_t>(size.size));
    return bytes;
  }

  std::vector<directory> names_;
  std::map<file_number, file_view> files_;
  std::vector<dimension> dimensions_;
  std::vector<std::size_t> free_;
};

} // namespace l1

export namespace l1 {

struct report {
  std::string name;
  std::size_t crash_points = 0;
  std::size_t histories = 0;
  std::size_t bad = 0;
  std::size_t materialised = 0; // images in which the operation was run again
  std::string first = {};       // of what is bad
};

[[nodiscard]] auto to_string(report const& r) -> std::string {
  return r.name + ": " + std::to_string(r.crash_points) + " crash points, " + std::to_string(r.histories) +
         " histories, " + std::to_string(r.materialised) + " run again, " + std::to_string(r.bad) + " bad" +
         (r.first.empty() ? "" : "; " + r.first);
}

// FMMAP_SEED, or the one of every day.
[[nodiscard]] auto seed() -> std::uint64_t {
  constexpr std::uint64_t usual = 1;
  auto const* const text = std::getenv("FMMAP_SEED");
  return text == nullptr ? usual : std::stoull(text);
}

} // namespace l1

namespace l1 {

constexpr std::size_t most_exhaustive = 4096;
constexpr std::size_t samples = sanitized ? 400 : 2000;
constexpr std::size_t torn_samples = sanitized ? 50 : 200;
constexpr std::size_t most_materialised = sanitized ? 12 : 48; // of a scenario

// Gives the images of one moment to their oracle.
class judge {
public:
  judge(histories const& of, crash::oracle const& allowed, std::string_view after, std::mt19937_64& random,
        report& result)
      : of_{of}, allowed_{allowed}, after_{after}, random_{random}, result_{result} {}

  void run() {
    ++result_.crash_points;
    if (of_.total(most_exhaustive + 1) <= most_exhaustive) {
      all();
    } else {
      sampled();
    }
    torn();
  }

  void all() {
    auto chosen = of_.oldest();
    while (true) {
      check(chosen, {});
      auto const carried = std::ranges::find_if(of_.free(), [&](std::size_t d) {
        chosen[d] = chosen[d] + 1 == of_.count(d) ? 0 : chosen[d] + 1;
        return chosen[d] != 0;
      });
      if (carried == of_.free().end()) {
        return;
      }
    }
  }

private:
  void sampled() {
    auto const oldest = of_.oldest();
    auto const latest = of_.latest();
    auto accumulated = oldest;
    auto reversed = oldest;
    check(oldest, {});
    for (std::size_t i = 0; i < of_.free().size(); ++i) {
      auto const d = of_.free()[i];
      auto const from_behind = of_.free()[of_.free().size() - 1 - i];
      check(with(oldest, d, latest[d]), {}); // singles
      check(with(latest, d, 0), {});         // all but one
      accumulated[d] = latest[d];
      check(accumulated, {});
      reversed[from_behind] = latest[from_behind];
      check(reversed, {});
    }
    for (std::size_t i = 0; i < samples; ++i) {
      check(any_choice(), {});
    }
  }

  void torn() {
    std::vector<std::size_t> pages;
    std::ranges::copy_if(of_.free(), std::back_inserter(pages), [&](std::size_t d) { return of_.is_page(d); });
    if (pages.empty()) {
      return;
    }
    constexpr unsigned all_sectors = (1U << (page_size / sector_size)) - 1;
    for (std::size_t i = 0; i < torn_samples; ++i) {
      auto const chosen = any_choice();
      histories::tears mixed;
      auto const surely = pages[below(pages.size())];
      for (auto const d : pages) {
        if (d == surely || below(2) == 0) {
          mixed[d] = {.other = below(of_.count(d)), .sectors = static_cast<unsigned>(1 + below(all_sectors))};
        }
      }
      check(chosen, mixed);
    }
  }

  auto any_choice() -> histories::choice {
    auto chosen = of_.oldest();
    for (auto const d : of_.free()) {
      chosen[d] = below(of_.count(d));
    }
    return chosen;
  }

  auto below(std::size_t end) -> std::size_t { return static_cast<std::size_t>(random_() % end); }

  static auto with(histories::choice chosen, std::size_t dimension, std::size_t version) -> histories::choice {
    chosen[dimension] = version;
    return chosen;
  }

  void check(histories::choice const& chosen, histories::tears const& mixed) {
    ++result_.histories;
    if (allowed_(of_.image(chosen, mixed)).empty()) {
      return;
    }
    ++result_.bad;
    if (result_.first.empty()) {
      result_.first = explain(chosen, mixed);
    }
  }

  // Takes back, one after the other, the losses that the fault does not need.
  auto explain(histories::choice chosen, histories::tears mixed) -> std::string {
    auto const latest = of_.latest();
    for (auto const d : of_.free()) {
      auto fewer = mixed;
      fewer.erase(d);
      if (!allowed_(of_.image(with(chosen, d, latest[d]), fewer)).empty()) {
        chosen[d] = latest[d];
        mixed = fewer;
      } else if (!allowed_(of_.image(chosen, fewer)).empty()) {
        mixed = fewer;
      }
    }
    return allowed_(of_.image(chosen, mixed)) + ", in " + result_.name + " after " + std::string{after_} +
           " (crash point " + std::to_string(result_.crash_points) + ", seed " + std::to_string(seed()) + "), where " +
           of_.describe(chosen, mixed);
  }

  histories const& of_;
  crash::oracle const& allowed_;
  std::string_view after_;
  std::mt19937_64& random_;
  report& result_;
};

// Runs the operation again in a few of the images of one moment.
void run_again(crash::scenario const& of, histories const& moment, std::set<crash::image>& seen, report& result) {
  for (auto const& chosen : {moment.oldest(), moment.latest()}) {
    auto const image = moment.image(chosen);
    if (!of.again || seen.size() >= most_materialised || !seen.insert(image).second) {
      continue;
    }
    scratch const place;
    crash::materialise(image, place.folder());
    auto const wrong = of.again(place.folder());
    ++result.materialised;
    ++result.histories;
    if (!wrong.empty()) {
      ++result.bad;
      result.first = result.first.empty() ? "run again after crash point " + std::to_string(result.crash_points) +
                                                " of " + of.name + ": " + wrong
                                          : result.first;
    }
  }
}

auto record_run(crash::scenario const& of, std::function<void()> const& sabotage) -> record {
  scratch const place;
  if (of.prepare) {
    of.prepare(place.folder());
  }
  recorder watching{place.folder()};
  crash::trial trial{place.folder(), [&](crash::expectation const& e) { watching.expect(e); }};
  seam::armed const table;
  seam::observe([&](seam::observation const& seen) { watching.observe(seen); });
  if (sabotage) {
    sabotage();
  }
  of.body(trial);
  seam::observe({});
  return std::move(watching).finish();
}

} // namespace l1

export namespace l1 {

// Runs the scenario and judges all its histories. `sabotage` tells the seam which barriers to take away.
[[nodiscard]] auto run(crash::scenario const& of, std::function<void()> const& sabotage = {}) -> report {
  report result{.name = of.name};
  auto const written = record_run(of, sabotage);
  std::mt19937_64 random{seed()};
  std::set<crash::image> seen;
  disk_state state;
  for (auto const& step : written.steps) {
    for (auto const& change : step.changes) {
      state.apply(change);
    }
    histories const moment{state};
    judge{moment, written.expectations[step.expectation].after_power_loss, step.after, random, result}.run();
    if (!sabotage) {
      run_again(of, moment, seen, result);
    }
  }
  return result;
}

// The different images that a power failure at the end of a scenario can leave, without those that tear a page.
[[nodiscard]] auto final_images(crash::scenario const& of) -> std::set<crash::image> {
  auto const written = record_run(of, {});
  disk_state state;
  for (auto const& step : written.steps) {
    for (auto const& change : step.changes) {
      state.apply(change);
    }
  }
  report unused{.name = of.name};
  std::set<crash::image> found;
  std::mt19937_64 random{seed()};
  histories const moment{state};
  crash::oracle const collect = [&](crash::image const& image) {
    found.insert(image);
    return std::string{};
  };
  judge{moment, collect, {}, random, unused}.all();
  return found;
}

} // namespace l1
