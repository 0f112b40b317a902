// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "support/companion.hpp"
#include "support/mounts.hpp"

module fmmap.test.l3;

import :block_device;
import :block_log;
import :file_system;
import :power_loss;

namespace l3 {

void marks::acknowledged(std::uint64_t state) const {
  log_.append(event::acknowledged, 0, state);
  auto const extents = extents_in(folder_);
  log_.append(event::located, 0, 0, std::as_bytes(std::span{extents}));
}

auto to_string(report const& of) -> std::string {
  auto const per_image = of.images == 0 ? 0 : static_cast<std::size_t>(of.spent.count()) / of.images;
  auto const range = of.acknowledged.empty() ? std::string{"nothing"}
                                             : std::to_string(*of.acknowledged.begin()) + " to " +
                                                   std::to_string(*of.acknowledged.rbegin());
  return of.name + ": " + std::to_string(of.writes) + " writes, " + std::to_string(of.flushes) + " flushes, " +
         std::to_string(of.images) + " images, " + std::to_string(of.states.size()) +
         " distinct states, acknowledged " + range + ", " + std::to_string(of.bad) + " bad, " +
         std::to_string(of.skipped) + " skipped, " + std::to_string(of.unmountable) + " unmountable, " +
         std::to_string(per_image) + " ms an image" + (of.first.empty() ? "" : "; " + of.first);
}

auto device_folder() -> std::filesystem::path { return "/mnt/device"; }
auto mount_folder() -> std::filesystem::path { return "/mnt/mounted"; }

auto isolate() -> std::string {
  if (!::is_root()) {
    return "a loop device needs root";
  }
  die_with(::getppid());
  auto problem = own_mounts();
  if (problem.empty()) {
    problem = mount_tmpfs("/mnt", "size=1m");
  }
  if (problem.empty()) {
    std::filesystem::create_directory(device_folder());
    std::filesystem::create_directory(mount_folder());
  }
  return problem;
}

namespace {

// A moment at which power fails: before this entry of the log.
using moment = std::size_t;

class power_loss {
public:
  power_loss(workload const& of, file_system const& on, unsigned seed)
      : of_{of}, on_{on}, disk_{on}, random_{seed}, result_{.name = std::string{on.type} + ", " + of.name} {}

  auto run(effort const& spent) -> report {
    if (!disk_.problem().empty()) {
      fault(disk_.problem());
      return result_;
    }
    if (record()) {
      tearing_ = std::make_unique<tearing>(on_, disk_.bytes());
      auto const begin = std::chrono::steady_clock::now();
      for (auto const when : moments(spent.images)) {
        look_at(when);
        if (spent.until_one_is_bad && result_.bad > 0) {
          break;
        }
      }
      result_.spent = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);
    }
    return result_;
  }

private:
  auto record() -> bool {
    {
      block_device const device{device_folder(), disk_.bytes(), {.log = &log_}};
      mounted const here{device, on_, mount_folder()};
      if (!here.problem().empty()) {
        fault(here.problem());
        return false;
      }
      auto const answer = answer_of([&] {
        of_.body(here.folder(), marks{here.folder(), log_});
        return std::string{};
      });
      if (!answer.empty()) {
        fault("the workload: " + answer);
      }
    }
    entries_ = log_.entries();
    result_.writes = static_cast<std::size_t>(std::ranges::count(entries_, event::written, &log_entry::what));
    result_.flushes = static_cast<std::size_t>(std::ranges::count(entries_, event::flushed, &log_entry::what));
    return result_.bad == 0;
  }

  // In order, so that what is durable at one is at the next.
  auto moments(std::size_t count) -> std::vector<moment> {
    std::vector<moment> promised;
    for (moment at = 0; at < entries_.size(); ++at) {
      if (entries_[at].what == event::acknowledged) {
        promised.push_back(at + 1);
      }
    }
    std::vector<moment> chosen;
    std::uniform_int_distribution<std::size_t> any{promised.at(0), entries_.size()};
    std::uniform_int_distribution<std::size_t> any_promised{0, promised.size() - 1};
    for (std::size_t i = 0; i < count; ++i) {
      chosen.push_back(i % 2 == 0 ? any(random_) : promised[any_promised(random_)]);
    }
    std::ranges::sort(chosen);
    return chosen;
  }

  void look_at(moment when) {
    make_durable(when);
    block_device const device{device_folder(), disk_.bytes(), {.written = chosen_writes(when)}};
    mounted const here{device, on_, mount_folder()};
    ++result_.images;
    if (!here.problem().empty()) {
      ++(here.lacks_device() ? result_.skipped : result_.unmountable);
      return;
    }
    auto const reached = progress_at(when);
    result_.acknowledged.insert(reached.acknowledged);
    auto const answer = answer_of([&] { return of_.state(here.folder(), reached); });
    if (answer.starts_with('!')) {
      fault(answer.substr(1) + ", after a power failure at entry " + std::to_string(when) + " of " +
            std::to_string(entries_.size()) + ", from " + std::to_string(reached.acknowledged) + " to " +
            std::to_string(reached.started));
    } else {
      result_.states.insert(answer);
    }
  }

  // What comes before the last flush before that moment is on the disk.
  void make_durable(moment when) {
    auto last = when;
    while (last > durable_ && entries_[last - 1].what != event::flushed) {
      --last;
    }
    for (; durable_ < last; ++durable_) {
      auto const& entry = entries_[durable_];
      auto const place = disk_.bytes().subspan(static_cast<std::size_t>(entry.offset));
      if (entry.what == event::written) {
        std::ranges::copy(entry.bytes, place.begin());
      } else if (entry.what == event::discarded) {
        std::ranges::fill(place.first(static_cast<std::size_t>(entry.number)), std::byte{0});
      }
    }
  }

  // Of what came after it: more or less of the writes, some of them torn.
  auto chosen_writes(moment when) -> std::vector<piece> {
    constexpr unsigned of = 8;
    auto const kept_of_eight = random_() % (of + 1);
    auto const torn_of_eight = random_() % of / 2;
    std::vector<piece> chosen;
    for (auto at = durable_; at < when; ++at) {
      piece const write{.offset = entries_[at].offset, .bytes = entries_[at].bytes};
      if (entries_[at].what != event::written) { // a discarded block may keep what it had
        continue;
      }
      if (random_() % of < torn_of_eight) {
        tearing_->locate(extents_after(at));
        tearing_->keep_parts(write, [&] { return random_() % 2 == 0; }, chosen);
      } else if (random_() % of < kept_of_eight) {
        chosen.push_back(write);
      }
    }
    return chosen;
  }

  // Where the content of files is when the write is over.
  [[nodiscard]] auto extents_after(moment write) const -> std::span<std::byte const> {
    auto const found = std::ranges::find(entries_.begin() + static_cast<std::ptrdiff_t>(write), entries_.end(),
                                         event::located, &log_entry::what);
    return found == entries_.end() ? std::span<std::byte const>{} : found->bytes;
  }

  [[nodiscard]] auto progress_at(moment when) const -> progress {
    progress reached;
    for (auto const& entry : std::span{entries_}.first(when)) {
      if (entry.what == event::acknowledged) {
        reached.acknowledged = entry.number;
        reached.started = std::max(reached.started, entry.number);
      } else if (entry.what == event::started) {
        reached.started = entry.number;
      }
    }
    return reached;
  }

  void fault(std::string const& what) {
    ++result_.bad;
    if (result_.first.empty()) {
      result_.first = what;
    }
  }

  workload const& of_;
  file_system const& on_;
  disk_image disk_; // as far as it is durable
  block_log log_;
  std::vector<log_entry> entries_;
  std::size_t durable_ = 0; // entries
  std::unique_ptr<tearing> tearing_;
  std::mt19937 random_;
  report result_;
};

} // namespace

auto lose_power(workload const& of, file_system const& on, effort const& spent, unsigned seed) -> report {
  return power_loss{of, on, seed}.run(spent);
}

} // namespace l3
