// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

// What may be on the disk at one moment of a record.
module fmmap.test.l1:disk;

import :record;
import fmmap.test.crash;

namespace l1 {

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

  static void put(directory& into, name_changes const& changed) {
    for (auto const& [name, number] : changed) {
      if (number) {
        into[name] = *number;
      } else {
        into.erase(name);
      }
    }
  }

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

  // Mixes two versions of a page: bit i of `sectors` takes sector i from `other`, of the first one the first `split` bytes.
  struct tear {
    std::size_t other;
    unsigned sectors;
    std::size_t split = sector_size;
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
        text += torn.at(d).split < sector_size ? ", " + std::to_string(torn.at(d).split) + " bytes of the first" : "";
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
        auto length = mixed->second.split;
        for (std::size_t sector = 0; sector < page_size / sector_size; ++sector) {
          if ((mixed->second.sectors >> sector & 1U) != 0) {
            bytes.replace(page * page_size + sector * sector_size, length, other, sector * sector_size, length);
            length = sector_size;
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
