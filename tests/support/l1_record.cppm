// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.hpp"

// What a scenario does to its folder, written down by looking at the folder before and after every system call.
module fmmap.test.l1:record;

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
    if (seen.which == os::call::pwritev2) { // which syncs what it has stored
      look();
      if (!changes_.empty()) {
        end_step("stores of pwritev2");
      }
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
    case os::call::pwritev2: { // with RWF_DSYNC
      auto const begin = static_cast<std::size_t>(seen.about.offset / page_size);
      auto const end = page_count(seen.about.offset + seen.about.length);
      changes_.emplace_back(synced{.file = status_of(seen.about.descriptor).st_ino,
                                   .range = pages{.begin = begin, .end = end},
                                   .failed = failed});
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

} // namespace l1
