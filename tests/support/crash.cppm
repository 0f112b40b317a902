// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <ios>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scratch.hpp"

// What the crash tests have in common: a scenario says at every moment which contents of its folder a crash may leave, and
// the levels (fmmap.test.l1, fmmap.test.l2) crash it everywhere and look.
export module fmmap.test.crash;

import fmmap.os;

export namespace crash {

// The regular files of a folder after a crash, by their paths in it.
struct image {
  std::map<std::string, std::string> files;

  auto operator<=>(image const&) const = default;

  [[nodiscard]] auto content(std::string const& name) const -> std::string const* {
    auto const found = files.find(name);
    return found == files.end() ? nullptr : &found->second;
  }
};

// What is wrong with an image; nothing when it is allowed.
using oracle = std::function<std::string(image const&)>;

// Allows whatever a crash leaves.
[[nodiscard]] auto anything() -> oracle {
  return [](image const&) { return std::string{}; };
}

// What may be there from some moment on.
struct expectation {
  oracle after_power_loss;
  oracle after_kill; // the page cache survives: what was written is kept
};

// One run of a scenario in a folder of its own.
class trial {
public:
  trial(std::filesystem::path folder, std::function<void(expectation const&)> told)
      : folder_{std::move(folder)}, told_{std::move(told)} {}

  [[nodiscard]] auto folder() const -> std::filesystem::path const& { return folder_; }
  [[nodiscard]] auto operator/(std::string_view name) const -> std::filesystem::path { return folder_ / name; }

  // From now on this holds, and what was expected before no longer does.
  void expect(expectation const& from_now_on) const { told_(from_now_on); }

  // What a crash has left of a file; nothing where there is none.
  [[nodiscard]] auto found(std::string_view name) const -> std::optional<std::string> {
    auto const path = folder_ / name;
    return std::filesystem::exists(path) ? std::optional{read_back(path)} : std::nullopt;
  }

  // The same for both kinds of crash.
  void expect(oracle const& from_now_on) const { told_({.after_power_loss = from_now_on, .after_kill = from_now_on}); }

private:
  std::filesystem::path folder_;
  std::function<void(expectation const&)> told_;
};

struct scenario {
  std::string name;
  std::string_view operation;                                     // the public function it is about
  std::function<void(std::filesystem::path const&)> prepare = {}; // durable before the body begins
  std::function<void(trial&)> body;                               // begins with an expectation
  std::function<void(trial&)> again = {};                         // runs the operation in what a crash has left
};

void write_file(std::filesystem::path const& path, std::string_view content) {
  constexpr std::size_t block = std::size_t{64} << 10;
  std::filesystem::create_directories(path.parent_path());
  {
    std::ofstream file{path, std::ios::binary};
    for (std::size_t at = 0; at < content.size();
         at += block) { // with holes for zeros: images of heaps are nearly empty
      auto const bytes = content.substr(at, block);
      if (bytes.front() != '\0' || std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) != 0) {
        file.seekp(static_cast<std::streamoff>(at));
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      }
    }
  }
  std::filesystem::resize_file(path, content.size());
}

// What is in a folder now.
[[nodiscard]] auto image_of(std::filesystem::path const& folder) -> image {
  image found;
  for (auto const& entry : std::filesystem::recursive_directory_iterator{folder}) {
    if (entry.is_regular_file() && !entry.is_symlink()) {
      found.files.emplace(entry.path().lexically_relative(folder).string(), read_back(entry.path()));
    }
  }
  return found;
}

// Puts the files of an image into an empty folder.
void materialise(image const& from, std::filesystem::path const& folder) {
  for (auto const& [name, content] : from.files) {
    write_file(folder / name, content);
  }
}

// Runs a body to its end, and says what is wrong then.
[[nodiscard]] auto run(std::function<void(trial&)> const& body, std::filesystem::path const& folder,
                       std::function<void(expectation const&)> const& told) -> std::string {
  expectation last;
  trial whole{folder, [&](expectation const& e) {
                last = e;
                told(e);
              }};
  try {
    body(whole);
  } catch (std::exception const& e) {
    return std::string{"thrown: "} + e.what();
  }
  fmmap::os::seam::disarm(); // an oracle may make calls of its own
  return last.after_kill(image_of(folder));
}

// A row of the table of controls: a mistake made on purpose, and whether a level has caught it, as it should or cannot.
[[nodiscard]] auto control_row(std::string_view control, std::string_view operation, std::string_view level,
                               std::size_t bad, bool can_be_caught) -> std::string {
  std::ostringstream row;
  row << "control: " << std::left << std::setw(50) << control << " | " << std::setw(12) << operation << " | " << level
      << " | "
      << (bad > 0         ? "caught, " + std::to_string(bad) + " bad"
          : can_be_caught ? "MISSED"
                          : "not its to catch");
  return std::move(row).str();
}

// Oracles.

[[nodiscard]] auto both(oracle first, oracle second) -> oracle {
  return [first = std::move(first), second = std::move(second)](image const& found) {
    auto wrong = first(found);
    return wrong.empty() ? second(found) : wrong;
  };
}

// Exactly this content, or no file of this name.
[[nodiscard]] auto holds(std::string name, std::optional<std::string> content) -> oracle {
  return [name = std::move(name), content = std::move(content)](image const& found) -> std::string {
    auto const* const there = found.content(name);
    if (there == nullptr) {
      return content ? name + " is not there" : "";
    }
    if (!content) {
      return name + " is there";
    }
    if (*there == *content) {
      return {};
    }
    auto const at = std::ranges::mismatch(*there, *content).in1 - there->begin();
    return name + " has " + std::to_string(there->size()) + " bytes for " + std::to_string(content->size()) +
           ", others from byte " + std::to_string(at) + " on";
  };
}

// One of these contents, whole.
[[nodiscard]] auto holds_one_of(std::string name, std::vector<std::optional<std::string>> contents) -> oracle {
  return [name = std::move(name), contents = std::move(contents)](image const& found) -> std::string {
    std::string wrong;
    for (auto const& content : contents) {
      auto const other = holds(name, content)(found);
      if (other.empty()) {
        return {};
      }
      wrong += (wrong.empty() ? "" : " and ") + other;
    }
    return wrong;
  };
}

// No names but these.
[[nodiscard]] auto has_only(std::set<std::string> names) -> oracle {
  return [names = std::move(names)](image const& found) -> std::string {
    for (auto const& [name, content] : found.files) {
      if (!names.contains(name)) {
        return name + " is left over";
      }
    }
    return {};
  };
}

// A file that begins with `kept`, is no longer than `written`, and past `kept` has what `written` has there, or zeros
// where no more than a part of that has reached the disk.
struct partly_written {
  std::string name;
  std::string kept;
  std::string written;

  auto operator()(image const& found) const -> std::string {
    auto const* const there = found.content(name);
    if (there == nullptr) {
      return name + " is not there";
    }
    if (there->size() < kept.size()) {
      return name + " is cut off at " + std::to_string(there->size()) + " of " + std::to_string(kept.size());
    }
    if (there->size() > written.size()) {
      return name + " is " + std::to_string(there->size()) + " bytes long, " + std::to_string(written.size()) +
             " were written";
    }
    if (!there->starts_with(kept)) {
      auto const at = std::ranges::mismatch(*there, kept).in1 - there->begin();
      return "byte " + std::to_string(at) + " of " + std::to_string(kept.size()) + " kept ones of " + name +
             " has changed";
    }
    constexpr std::size_t sector = 512;
    static std::string const zeros(sector, '\0');
    for (auto at = kept.size(); at < there->size();) {
      auto const end = std::min(there->size(), (at / sector + 1) * sector);
      std::string_view const bytes{there->data() + at, end - at};
      std::string_view const wanted{written.data() + at, end - at};
      if (bytes != wanted && bytes != std::string_view{zeros}.substr(0, bytes.size())) {
        for (std::size_t i = 0; i < bytes.size(); ++i) {
          if (bytes[i] != wanted[i] && bytes[i] != '\0') {
            return "byte " + std::to_string(at + i) + " of " + name + " is one that nobody wrote there";
          }
        }
      }
      at = end;
    }
    return {};
  }
};

// A file that holds the first bytes of `written`, as many as `kept` at least, and nothing else.
[[nodiscard]] auto prefix(std::string name, std::size_t kept, std::string written) -> oracle {
  return [name = std::move(name), kept, written = std::move(written)](image const& found) -> std::string {
    auto const* const there = found.content(name);
    if (there == nullptr) {
      return name + " is not there";
    }
    if (there->size() < kept) {
      return name + " is cut off at " + std::to_string(there->size()) + " of " + std::to_string(kept);
    }
    if (!written.starts_with(*there)) {
      auto const at = std::ranges::mismatch(*there, written).in1 - there->begin();
      return name + " has bytes that nobody wrote, from " + std::to_string(at) + " on";
    }
    return {};
  };
}

} // namespace crash
