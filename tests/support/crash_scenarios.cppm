// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "process.hpp"
#include "scratch.hpp"

// What the crash tests crash: replace_file, remove, append and resize, and implementations of them that are wrong.
export module fmmap.test.crash_scenarios;

import fmmap.core;
import fmmap.os;
import fmmap.test.crash;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

using fmmap::byte_range;
using fmmap::durability;
using fmmap::file;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;

namespace crash {

constexpr std::size_t page = 4096;

void copy(std::span<std::byte> to, std::string_view bytes) {
  if (!bytes.empty()) {
    std::memcpy(to.data(), bytes.data(), bytes.size());
  }
}

template <class T>
auto value_of(os::outcome<T> const& done) -> T {
  if (!done) {
    throw std::runtime_error{"errno " + std::to_string(done.error())};
  }
  if constexpr (!std::is_void_v<T>) {
    return *done;
  }
}

// Replacing.

using replacer = std::function<void(std::filesystem::path const&, std::string const&, durability)>;

void replace(std::filesystem::path const& path, std::string const& content, durability level) {
  or_throw(
      fmmap::replace_file(path, content.size(), [&](std::span<std::byte> to) { copy(to, content); }, {.level = level}));
}

struct replacement {
  std::string name;
  std::optional<std::string> before;
  std::vector<std::string> contents; // one after the other
  durability level = durability::data;
  bool linked = false;  // the old file has a second name
  bool through = false; // the path ends in a symbolic link
  bool left = false;    // a crash has left its file
  replacer how = replace;
};

auto replacing(replacement const& of) -> scenario {
  std::string const target = of.through ? "folder/data" : "data";
  std::string const leftover = of.through ? "folder/.data.fmmap-new" : ".data.fmmap-new";
  auto const beside = of.linked ? of.before : std::optional{pattern(100, 9)};
  return {
      .name = of.name,
      .operation = "replace_file",
      .prepare =
          [=](std::filesystem::path const& folder) {
            std::filesystem::create_directories((folder / target).parent_path());
            if (of.before) {
              write_file(folder / target, *of.before);
            }
            if (of.linked) {
              std::filesystem::create_hard_link(folder / target, folder / "other");
            } else {
              write_file(folder / "other", *beside);
            }
            if (of.through) {
              std::filesystem::create_symlink(target, folder / "link");
            }
            if (of.left) {
              write_file(folder / leftover, pattern(page / 2, 8));
            }
          },
      .body =
          [=](trial& t) {
            std::vector possible{of.before};
            auto const kept = holds("other", beside);
            auto const clean = both(kept, has_only({target, "other"}));
            auto const unclean = both(kept, has_only({target, "other", leftover}));
            t.expect(both(of.left ? unclean : clean, holds(target, of.before)));
            for (auto const& content : of.contents) {
              possible.emplace_back(content);
              t.expect(both(unclean, holds_one_of(target, possible)));
              of.how(t / (of.through ? "link" : "data"), content, of.level);
              auto const replaced = both(clean, holds(target, content));
              if (of.level >= durability::data) {
                possible = {content};
                t.expect(replaced);
              } else {
                t.expect({.after_power_loss = both(unclean, holds_one_of(target, possible)), .after_kill = replaced});
              }
            }
          },
      .again =
          [=](trial& t) {
            auto const kept = holds("other", beside);
            auto const unclean = both(kept, has_only({target, "other", leftover}));
            auto const before = t.found(target);
            auto const content = pattern(page + 1, 77);
            t.expect(both(unclean, holds_one_of(target, {before, content})));
            of.how(t / target, content, durability::data);
            t.expect(both(both(kept, has_only({target, "other"})), holds(target, content)));
          },
  };
}

auto is_folder(os::subject const& about) -> bool {
  struct stat status{};
  return ::fstat(about.descriptor, &status) == 0 && S_ISDIR(status.st_mode);
}

auto is_content(os::subject const& about) -> bool { return !is_folder(about); }

// Whether an operation reports that a sync has failed, as it must.
auto reports_failed_sync(fmmap::result<void> const& outcome) -> bool {
  return !outcome && outcome.error() == std::errc::io_error;
}

void require(bool holds, char const* what) {
  if (!holds) {
    throw std::runtime_error{what};
  }
}

// A sync that fails, of the new content or of the directory, and then another replacement.
auto replacing_with_a_failing_sync(std::string const& name, std::uint64_t spared) -> scenario {
  auto const before = pattern(page + 7);
  auto const failed = pattern(2 * page, 1);
  auto const after = pattern(page, 2);
  return {
      .name = name,
      .operation = "replace_file",
      .prepare = [=](std::filesystem::path const& folder) { write_file(folder / "data", before); },
      .body =
          [=](trial& t) {
            auto const names = has_only({"data", ".data.fmmap-new"});
            auto const in_place = spared > 0; // the content was
            t.expect(both(names, holds_one_of("data", {before, failed})));
            seam::fail(os::call::fsync, EIO, 1, spared);
            require(reports_failed_sync(fmmap::replace_file(t / "data", failed.size(),
                                                            [&](std::span<std::byte> to) { copy(to, failed); })),
                    "the failed sync is not reported");
            auto const afterwards = both(has_only({"data"}), holds("data", in_place ? failed : before));
            t.expect({.after_power_loss = in_place ? both(names, holds_one_of("data", {before, failed})) : afterwards,
                      .after_kill = afterwards});
            t.expect(both(names, holds_one_of("data", {before, failed, after})));
            replace(t / "data", after, durability::data);
            t.expect(both(has_only({"data"}), holds("data", after)));
          },
  };
}

// As on a file system without O_TMPFILE: the second open is the one for a file without a name.
void replace_by_name(std::filesystem::path const& path, std::string const& content, durability level) {
  seam::fail(os::call::openat, EOPNOTSUPP, 1, 1);
  replace(path, content, level);
}

// As in a directory that may be written but not read.
void replace_unreadably(std::filesystem::path const& path, std::string const& content, durability level) {
  seam::fail(os::call::openat, EACCES, 1);
  replace(path, content, level);
}

// Removing.

template <class File>
auto removing(std::string const& name, std::string_view content, bool linked,
              File (*open)(std::filesystem::path const&)) -> scenario {
  std::string const bytes{content};
  return {
      .name = name,
      .operation = "file::remove",
      .prepare =
          [=](std::filesystem::path const& folder) {
            write_file(folder / "data", bytes);
            if (linked) {
              std::filesystem::create_hard_link(folder / "data", folder / "other");
            } else {
              write_file(folder / "other", bytes);
            }
          },
      .body =
          [=](trial& t) {
            auto const kept = both(holds("other", bytes), has_only({"data", "other"}));
            t.expect(both(kept, holds("data", bytes)));
            auto removed = open(t / "data");
            t.expect(both(kept, holds_one_of("data", {bytes, std::nullopt})));
            or_throw(removed.remove());
            t.expect(both(kept, holds("data", std::nullopt)));
          },
      .again =
          [=](trial& t) {
            auto const kept = both(holds("other", bytes), has_only({"data", "other"}));
            t.expect(both(kept, holds_one_of("data", {bytes, std::nullopt})));
            if (t.found("data")) {
              auto removed = open(t / "data");
              or_throw(removed.remove());
            }
            t.expect(both(kept, holds("data", std::nullopt)));
          },
  };
}

auto open_to_read(std::filesystem::path const& path) -> file { return or_throw(file::open(path)); }
auto open_to_write(std::filesystem::path const& path) -> mutable_mapped_file {
  return or_throw(mutable_mapped_file::open_existing(path));
}

// The name is looked up from the handle.
auto removing_what_was_renamed() -> scenario {
  auto const bytes = pattern(page + 5);
  return {
      .name = "removing a file that has been renamed meanwhile",
      .operation = "file::remove",
      .prepare = [=](std::filesystem::path const& folder) { write_file(folder / "data", bytes); },
      .body =
          [=](trial& t) {
            t.expect(holds("data", bytes));
            auto removed = open_to_read(t / "data");
            auto const one_name = [=](image const& found) -> std::string {
              auto const old_name = holds("data", bytes)(found).empty();
              auto const new_name = holds("moved", bytes)(found).empty();
              return old_name != new_name || found.files.empty() ? "" : "the file is there twice, or changed";
            };
            t.expect(one_name);
            std::filesystem::rename(t / "data", t / "moved");
            or_throw(removed.remove());
            t.expect(has_only({}));
          },
  };
}

auto removing_again_after_a_failed_sync() -> scenario {
  auto const bytes = pattern(page + 5);
  return {
      .name = "removing a file again whose directory could not be synced",
      .operation = "file::remove",
      .prepare = [=](std::filesystem::path const& folder) { write_file(folder / "data", bytes); },
      .body =
          [=](trial& t) {
            t.expect(holds_one_of("data", {bytes, std::nullopt}));
            auto removed = open_to_read(t / "data");
            seam::fail(os::call::fsync, EIO, 1);
            require(reports_failed_sync(removed.remove()), "the failed sync is not reported");
            t.expect({.after_power_loss = holds_one_of("data", {bytes, std::nullopt}),
                      .after_kill = holds("data", std::nullopt)});
            or_throw(removed.remove());
            t.expect(has_only({}));
          },
  };
}

// Appending.

enum class flush_kind : unsigned char { none, whole, range, all, staged };

struct append_step {
  std::size_t bytes;
  flush_kind flush = flush_kind::none;
};

class mapped_log {
public:
  mapped_log(std::filesystem::path const& path, fmmap::write_options const& options)
      : file_{or_throw(mutable_mapped_file::open_existing(path, options))} {}

  void append(std::string_view bytes) { (void)or_throw(file_.append(bytes_of(bytes))); }

  void flush(flush_kind kind, std::size_t from) {
    switch (kind) {
    case flush_kind::none:
      break;
    case flush_kind::whole:
      (void)or_throw(file_.flush());
      break;
    case flush_kind::range:
      (void)or_throw(file_.flush({.offset = from, .length = static_cast<std::size_t>(file_.size()) - from}));
      break;
    case flush_kind::all:
      (void)or_throw(file_.flush(fmmap::whole, durability::all));
      break;
    case flush_kind::staged:
      (void)or_throw(or_throw(file_.stage_flush()).run());
      break;
    }
  }

private:
  mutable_mapped_file file_;
};

// What a log has been given, and what may be left of it.
class log_history {
public:
  log_history(trial& t, std::string before) : trial_{t}, written_{std::move(before)}, underway_{written_} { flushed(); }

  void appending(std::string_view bytes) {
    underway_ += bytes;
    expect();
  }
  void appended() {
    written_ = underway_;
    expect();
  }
  void flushed() {
    flushed_ = written_.size();
    expect();
  }
  [[nodiscard]] auto flushed_size() const -> std::size_t { return flushed_; }

private:
  void expect() {
    auto const alone = has_only({"data"});
    trial_.expect(
        {.after_power_loss =
             both(alone, partly_written{.name = "data", .kept = written_.substr(0, flushed_), .written = underway_}),
         .after_kill = both(alone, prefix("data", written_.size(), underway_))});
  }

  trial& trial_;
  std::string written_;
  std::string underway_;
  std::size_t flushed_ = 0;
};

template <class Log>
void append_again(trial& t) {
  log_history history{t, t.found("data").value()};
  Log log{t / "data", {}};
  auto const more = pattern(page + 3, 99);
  history.appending(more);
  log.append(more);
  history.appended();
  log.flush(flush_kind::whole, history.flushed_size());
  history.flushed();
}

template <class Log>
auto appending(std::string const& name, std::size_t before, std::vector<append_step> const& steps,
               fmmap::write_options const& options = {}) -> scenario {
  return {
      .name = name,
      .operation = "append",
      .prepare = [=](std::filesystem::path const& folder) { write_file(folder / "data", pattern(before)); },
      .body =
          [=](trial& t) {
            log_history history{t, pattern(before)};
            Log log{t / "data", options};
            for (std::uint64_t number = 1; auto const& step : steps) {
              auto const bytes = pattern(step.bytes, number++ * 1000);
              history.appending(bytes);
              log.append(bytes);
              history.appended();
              if (step.flush != flush_kind::none) {
                log.flush(step.flush, history.flushed_size());
                history.flushed();
              }
            }
          },
      .again = append_again<Log>,
  };
}

auto creating_and_appending() -> scenario {
  auto const bytes = pattern(page + 100, 3);
  return {
      .name = "creating a file with a durable name and appending",
      .operation = "append",
      .body =
          [=](trial& t) {
            t.expect(holds_one_of("data", {std::nullopt, ""}));
            auto log = or_throw(mutable_mapped_file::create(t / "data", {.sync_directory = true}));
            log_history history{t, ""};
            history.appending(bytes);
            (void)or_throw(log.append(bytes_of(bytes)));
            history.appended();
            (void)or_throw(log.flush());
            history.flushed();
          },
  };
}

auto appending_after_a_failed_flush() -> scenario {
  return {
      .name = "appending after a flush that failed",
      .operation = "append",
      .prepare = [](std::filesystem::path const& folder) { write_file(folder / "data", pattern(page)); },
      .body =
          [](trial& t) {
            log_history history{t, pattern(page)};
            mapped_log log{t / "data", {}};
            seam::fail(os::call::fdatasync, EIO, 1);
            for (std::uint64_t number = 1; number <= 3; ++number) {
              auto const bytes = pattern(page / 2, number);
              history.appending(bytes);
              log.append(bytes);
              history.appended();
              try {
                log.flush(flush_kind::whole, 0);
                history.flushed();
              } catch (fmmap::system_error const& e) {
                if (!(e.why() == std::errc::io_error)) {
                  throw;
                }
              }
            }
          },
      .again = append_again<mapped_log>,
  };
}

// Changing the size.

struct size_step {
  std::uint64_t size;
  durability level = durability::data;
  bool filled = false;  // what is new is stored to
  bool flushed = false; // and flushed
};

// A file whose size changes, and what may be left of it.
class size_history {
public:
  size_history(trial& t, std::string before) : trial_{t}, content_{before}, kept_{before}, written_{std::move(before)} {
    expect(content_);
  }

  void resizing(std::uint64_t size) {
    auto const before = content_;
    kept_.resize(std::min(kept_.size(), static_cast<std::size_t>(size)));
    written_.resize(std::max(written_.size(), static_cast<std::size_t>(size)));
    content_.resize(static_cast<std::size_t>(size));
    expect(before);
  }
  void resized(durability level) { level >= durability::data ? flushed() : expect(content_); }

  void filling(std::size_t from, std::string_view bytes) {
    content_.replace(from, bytes.size(), bytes);
    written_.replace(from, bytes.size(), bytes);
    kept_.resize(std::min(kept_.size(), from));
    expect(content_);
  }
  void flushed() {
    kept_ = written_ = content_;
    expect(content_);
  }

private:
  void expect(std::string const& before) {
    auto const alone = has_only({"data"});
    trial_.expect({.after_power_loss = both(alone, partly_written{.name = "data", .kept = kept_, .written = written_}),
                   .after_kill = both(alone, holds_one_of("data", {before, content_}))});
  }

  trial& trial_;
  std::string content_;
  std::string kept_;    // the file begins with it
  std::string written_; // it has these bytes, or zeros
};

auto resizing(std::string const& name, std::size_t before, std::vector<size_step> const& steps,
              fmmap::write_options const& options = {}) -> scenario {
  return {
      .name = name,
      .operation = "resize",
      .prepare = [=](std::filesystem::path const& folder) { write_file(folder / "data", pattern(before)); },
      .body =
          [=](trial& t) {
            size_history history{t, pattern(before)};
            auto resized = or_throw(mutable_mapped_file::open_existing(t / "data", options));
            for (auto const& step : steps) {
              auto const old = static_cast<std::size_t>(resized.size());
              history.resizing(step.size);
              or_throw(resized.resize(step.size, step.level));
              history.resized(step.level);
              if (step.filled && step.size > old) {
                auto const bytes = pattern(static_cast<std::size_t>(step.size) - old, step.size);
                history.filling(old, bytes);
                copy(resized.writable_bytes().subspan(old), bytes);
              }
              if (step.flushed) {
                (void)or_throw(resized.flush());
                history.flushed();
              }
            }
          },
      .again =
          [](trial& t) {
            size_history history{t, t.found("data").value()};
            auto resized = or_throw(mutable_mapped_file::open_existing(t / "data"));
            for (auto const size : {2 * page + 1, page - 1}) {
              history.resizing(size);
              or_throw(resized.resize(size, durability::data));
              history.resized(durability::data);
            }
          },
  };
}

} // namespace crash

export namespace crash {

// The library's operations, in all variations.
[[nodiscard]] auto scenarios() -> std::vector<scenario> const& {
  using enum flush_kind;
  static std::vector<scenario> const list{
      replacing({.name = "replacing no file", .before = std::nullopt, .contents = {pattern(2 * page + 10, 1)}}),
      replacing({.name = "replacing a file by a longer one",
                 .before = pattern(page - 1),
                 .contents = {pattern(3 * page + 100, 1)}}),
      replacing({.name = "replacing a file by a shorter one",
                 .before = pattern(5 * page + 7),
                 .contents = {pattern(100, 1)}}),
      replacing({.name = "replacing a file by an empty one", .before = pattern(page), .contents = {""}}),
      replacing({.name = "replacing an empty file", .before = "", .contents = {pattern(page, 1)}}),
      replacing({.name = "replacing a large file",
                 .before = pattern(20 * page),
                 .contents = {pattern(24 * page + 1, 1)},
                 .level = durability::all}),
      replacing({.name = "replacing a file that has another name",
                 .before = pattern(2 * page),
                 .contents = {pattern(2 * page, 1)},
                 .linked = true}),
      replacing({.name = "replacing a file through a link",
                 .before = pattern(page + 1),
                 .contents = {pattern(page + 2, 1)},
                 .through = true}),
      replacing({.name = "replacing a file three times",
                 .before = std::nullopt,
                 .contents = {pattern(page, 1), pattern(3 * page, 2), pattern(10, 3)}}),
      replacing({.name = "replacing a file twice without a durable name",
                 .before = pattern(3 * page + 100),
                 .contents = {pattern(2 * page, 1), pattern(4 * page, 2)},
                 .level = durability::none}),
      replacing({.name = "replacing a file where there are no unnamed files",
                 .before = pattern(page + 7),
                 .contents = {pattern(3 * page, 1), pattern(page, 2)},
                 .how = replace_by_name}),
      replacing({.name = "replacing a file in a directory that cannot be read",
                 .before = pattern(page + 7),
                 .contents = {pattern(3 * page, 1)},
                 .how = replace_unreadably}),
      replacing({.name = "replacing a file where a crash has left another",
                 .before = pattern(page),
                 .contents = {pattern(2 * page + 1, 1)},
                 .left = true}),
      replacing({.name = "replacing a file where a crash has left another and there are no unnamed files",
                 .before = pattern(page),
                 .contents = {pattern(2 * page + 1, 1)},
                 .left = true,
                 .how = replace_by_name}),
      replacing_with_a_failing_sync("replacing a file whose new content cannot be synced", 0),
      replacing_with_a_failing_sync("replacing a file whose directory cannot be synced", 1),

      removing("removing a file", pattern(page + 1), false, open_to_read),
      removing("removing an empty file", "", false, open_to_read),
      removing("removing one name of a file", pattern(3 * page), true, open_to_read),
      removing("removing a mapped file", pattern(2 * page + 5), false, open_to_write),
      removing("removing one name of a mapped file", pattern(page), true, open_to_write),
      removing_what_was_renamed(),
      removing_again_after_a_failed_sync(),

      creating_and_appending(),
      appending_after_a_failed_flush(),
      appending<mapped_log>("appending to an empty file", 0, {{.bytes = 100}, {.bytes = page, .flush = whole}}),
      appending<mapped_log>("appending across page borders", page - 10,
                            {{.bytes = 20, .flush = whole}, {.bytes = 2 * page}, {.bytes = 1, .flush = whole}}),
      appending<mapped_log>("appending small records with a flush after each", 10,
                            {{.bytes = 500, .flush = whole},
                             {.bytes = 700, .flush = whole},
                             {.bytes = 900, .flush = whole},
                             {.bytes = 3000, .flush = whole},
                             {.bytes = 1, .flush = whole}}),
      appending<mapped_log>("appending and flushing what is new only", page + 1,
                            {{.bytes = 300, .flush = range},
                             {.bytes = 3 * page},
                             {.bytes = 2 * page, .flush = range},
                             {.bytes = 600, .flush = range}}),
      appending<mapped_log>("appending with flushes of all kinds", 0,
                            {{.bytes = 2 * page + 1, .flush = all},
                             {.bytes = page, .flush = staged},
                             {.bytes = page, .flush = range},
                             {.bytes = page - 1, .flush = whole}}),
      appending<mapped_log>("appending and never flushing", 2 * page + 100,
                            {{.bytes = page}, {.bytes = page}, {.bytes = page}, {.bytes = page}, {.bytes = page}}),
      appending<mapped_log>("appending more than is allocated ahead", 100,
                            {{.bytes = page, .flush = whole}, {.bytes = 20 * page, .flush = whole}, {.bytes = page}}),
      appending<mapped_log>(
          "appending past the reservation", page,
          {{.bytes = page, .flush = whole}, {.bytes = 5 * page}, {.bytes = 9 * page, .flush = whole}, {.bytes = 10}},
          {.reserve = 2 * page}),

      resizing("growing a file", 100, {{.size = 3 * page}}),
      resizing("growing a file past the reservation", page, {{.size = 4 * page}, {.size = 12 * page + 1}},
               {.reserve = 2 * page}),
      resizing("growing an empty file", 0, {{.size = 10}, {.size = page}, {.size = page + 1}}),
      resizing("growing a file and storing", page / 2,
               {{.size = 2 * page, .filled = true, .flushed = true},
                {.size = 6 * page + 3, .filled = true},
                {.size = 7 * page, .filled = true, .flushed = true}}),
      resizing("shrinking a file", 3 * page + 100, {{.size = page + 10}, {.size = 0}}),
      resizing("shrinking a file and growing it", 5 * page, {{.size = 100}, {.size = 5 * page}}),
      resizing("shrinking a file and growing it without a flush between", 4 * page + 5,
               {{.size = page + 1, .level = durability::none}, {.size = 4 * page}}),
      resizing("cutting off what was never flushed, and growing", page,
               {{.size = 4 * page, .level = durability::none, .filled = true},
                {.size = page + 200, .level = durability::none},
                {.size = 3 * page + 1, .level = durability::all}}),
      resizing("changing a size and never flushing", 3 * page,
               {{.size = 5 * page, .level = durability::none},
                {.size = 2 * page + 1, .level = durability::none},
                {.size = 2 * page, .level = durability::none}}),
  };
  return list;
}

// The same operations over sizes around the borders of sectors and pages.
[[nodiscard]] auto variations() -> std::vector<scenario> const& {
  using enum flush_kind;
  static std::vector<scenario> const list = [] {
    auto const sizes = sanitized ? std::vector<std::size_t>{page - 1, 3 * page + 100}
                                 : std::vector<std::size_t>{0, 1, 512, page - 1, page, page + 1, 3 * page + 100};
    std::vector<scenario> made;
    for (auto const before : sizes) {
      for (auto const after : sizes) {
        auto const numbers = std::to_string(before) + " bytes by " + std::to_string(after);
        made.push_back(
            replacing({.name = "replacing " + numbers, .before = pattern(before), .contents = {pattern(after, 1)}}));
        made.push_back(resizing("resizing " + numbers + " and back", before,
                                {{.size = after, .level = durability::none, .filled = true},
                                 {.size = before},
                                 {.size = after, .level = durability::none, .filled = true, .flushed = true}}));
        made.push_back(appending<mapped_log>("appending to " + numbers, before,
                                             {{.bytes = after, .flush = whole},
                                              {.bytes = after + 10},
                                              {.bytes = after + 100, .flush = range},
                                              {.bytes = page},
                                              {.bytes = after}}));
      }
    }
    return made;
  }();
  return list;
}

// A barrier of the library that is taken away.
struct removed_barrier {
  std::string_view name;
  std::string_view operation;
  std::function<void()> remove; // told to the seam
};

} // namespace crash

namespace crash {

void skip_syncs_of_content() {
  seam::skip(os::call::fsync, is_content);
  seam::skip(os::call::fdatasync);
  seam::skip(os::call::msync);
}

// Implementations that are wrong. They call the system through the seam, as the library does.

class raw_file {
public:
  raw_file(std::filesystem::path const& path, os::open_flags flags)
      : descriptor_{value_of(os::open(os::working_directory, path.c_str(), flags, 0600))} {}
  raw_file(raw_file const&) = delete;
  auto operator=(raw_file const&) -> raw_file& = delete;
  ~raw_file() { (void)os::close(descriptor_); }
  [[nodiscard]] auto get() const -> os::descriptor { return descriptor_; }

private:
  os::descriptor descriptor_;
};

void put(raw_file const& to, std::uint64_t offset, std::string_view bytes) {
  if (value_of(os::write_at(to.get(), offset, bytes_of(bytes))) != bytes.size()) {
    throw std::runtime_error{"a short write"};
  }
}

void replace_in_place(std::filesystem::path const& path, std::string const& content, durability /*level*/) {
  raw_file const target{path, {.write = true, .create = true}};
  value_of(os::set_size(target.get(), 0));
  put(target, 0, content);
  value_of(os::sync(target.get()));
  raw_file const folder{path.parent_path(), {.directory = true}};
  value_of(os::sync(folder.get()));
}

void replace_without_content(std::filesystem::path const& path, std::string const& content, durability /*level*/) {
  auto const name = path.filename().string();
  auto const staged = "." + name + ".fmmap-new";
  std::filesystem::remove(path.parent_path() / staged);
  {
    raw_file const fresh{path.parent_path() / staged, {.write = true, .create = true, .exclusive = true}};
    put(fresh, 0, content);
  }
  raw_file const folder{path.parent_path(), {.directory = true}};
  value_of(os::rename(folder.get(), staged.c_str(), name.c_str()));
  value_of(os::sync(folder.get()));
}

void replace_by_unlinking(std::filesystem::path const& path, std::string const& content, durability /*level*/) {
  auto const name = path.filename().string();
  auto const staged = "." + name + ".fmmap-new";
  std::filesystem::remove(path.parent_path() / staged);
  raw_file const fresh{path.parent_path() / staged, {.write = true, .create = true, .exclusive = true}};
  put(fresh, 0, content);
  value_of(os::sync(fresh.get()));
  raw_file const folder{path.parent_path(), {.directory = true}};
  (void)os::unlink(folder.get(), name.c_str());
  value_of(os::rename(folder.get(), staged.c_str(), name.c_str()));
  value_of(os::sync(folder.get()));
}

// Makes the file longer first, and then stores the bytes through a mapping.
class growing_log {
public:
  growing_log(std::filesystem::path const& path, fmmap::write_options const& /*options*/)
      : file_{path, {.write = true}}, size_{value_of(os::status(file_.get())).size} {}

  void append(std::string_view bytes) {
    auto const end = static_cast<std::size_t>(size_) + bytes.size();
    value_of(os::set_size(file_.get(), end));
    auto* const view = value_of(os::map(nullptr, end, {.read = true, .write = true}, {.shared = true}, file_.get(), 0));
    copy({view + size_, bytes.size()}, bytes);
    value_of(os::unmap(view, end));
    size_ = end;
  }

  void flush(flush_kind /*kind*/, std::size_t /*from*/) { value_of(os::sync_data(file_.get())); }

private:
  raw_file file_;
  std::uint64_t size_;
};

// Takes a sync that succeeds after one that failed for a success.
class retrying_log {
public:
  retrying_log(std::filesystem::path const& path, fmmap::write_options const& /*options*/)
      : file_{path, {.write = true}}, size_{value_of(os::status(file_.get())).size} {
    seam::fail(os::call::fdatasync, EIO, 1);
  }

  void append(std::string_view bytes) {
    put(file_, size_, bytes);
    size_ += bytes.size();
  }

  void flush(flush_kind /*kind*/, std::size_t /*from*/) {
    while (!os::sync_data(file_.get())) {
    }
  }

private:
  raw_file file_;
  std::uint64_t size_;
};

// Takes sync_file_range for a sync.
class half_syncing_log {
public:
  half_syncing_log(std::filesystem::path const& path, fmmap::write_options const& /*options*/)
      : file_{path, {.write = true}}, size_{value_of(os::status(file_.get())).size} {}

  void append(std::string_view bytes) {
    put(file_, size_, bytes);
    size_ += bytes.size();
  }

  void flush(flush_kind /*kind*/, std::size_t /*from*/) { value_of(os::sync_range(file_.get(), 0, size_, true)); }

private:
  raw_file file_;
  std::uint64_t size_;
};

} // namespace crash

export namespace crash {

[[nodiscard]] auto removed_barriers() -> std::vector<removed_barrier> const& {
  static std::vector<removed_barrier> const list{
      {"no fsync of the new content", "replace_file", [] { seam::skip(os::call::fsync, is_content); }},
      {"no fsync of the directory", "replace_file", [] { seam::skip(os::call::fsync, is_folder); }},
      {"no unlink of what a crash has left", "replace_file", [] { seam::skip(os::call::unlinkat); }},
      {"no fsync of the directory", "file::remove", [] { seam::skip(os::call::fsync, is_folder); }},
      {"no fdatasync, msync or fsync in flush", "append", skip_syncs_of_content},
      {"no fdatasync in resize with a level", "resize", skip_syncs_of_content},
  };
  return list;
}

// A scenario with an implementation that is wrong, and which crashes show it.
struct mistake {
  scenario with;
  bool after_power_loss;
  bool after_kill;
};

[[nodiscard]] auto mistakes() -> std::vector<mistake> const& {
  using enum flush_kind;
  auto const wrong = [](std::string const& name, replacer how) {
    return replacing(
        {.name = name, .before = pattern(page + 9), .contents = {pattern(2 * page, 1)}, .how = std::move(how)});
  };
  std::vector<append_step> const steps{{.bytes = 600, .flush = whole}, {.bytes = 2 * page, .flush = whole}};
  static std::vector<mistake> const list{
      {wrong("a replace that truncates and writes in place", replace_in_place), true, true},
      {wrong("a replace that renames content it has not synced", replace_without_content), true, false},
      {wrong("a replace that removes the old file first", replace_by_unlinking), true, true},
      {appending<growing_log>("an append that grows the file and then stores", 100, steps), false, true},
      {appending<retrying_log>("an append that syncs again after a failure", 100, steps), true, false},
      {appending<half_syncing_log>("an append that flushes by sync_file_range", 100, steps), true, false},
  };
  return list;
}

} // namespace crash
