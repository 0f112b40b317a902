// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A vector and a map of strings that live in a file, whose program is killed again and again:
// persistent_vector [FILE] [KILLS]
//
// Each life opens the heap, goes on where the last commit has left it, changes both containers, commits, and only then
// acknowledges the round. After each kill the heap is opened again: it has to hold the last acknowledged round or the one
// after it, and both containers the same rounds.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <map>
#include <memory_resource>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

import fmmap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;
using texts = std::pmr::map<std::uint64_t, std::pmr::string>;

constexpr std::size_t kept_rounds = 50;

auto text_of(std::uint64_t round) -> std::string {
  return "round " + std::to_string(round) + ", in a string too long to lie in the map's node itself";
}

// Commits one round after the other until it is killed, and tells each down the pipe.
[[noreturn]] void play(char const* path, int acknowledge) {
  auto heap = fmmap::or_throw(fmmap::persistent_heap::open_or_create(path));
  auto* const rounds = fmmap::or_throw(heap.find_or_construct<numbers>("rounds")); // allocate from the heap,
  auto* const words = fmmap::or_throw(heap.find_or_construct<texts>("words"));     // and their elements too
  for (auto round = rounds->empty() ? 1 : rounds->back() + 1;; ++round) {
    rounds->push_back(round);
    words->emplace(round, text_of(round));
    if (rounds->size() > kept_rounds) {
      rounds->erase(rounds->begin());
      words->erase(words->begin());
    }
    fmmap::or_throw(heap.commit()); // this round or the one before, whatever happens
    if (::write(acknowledge, &round, sizeof round) != sizeof round) {
      std::_Exit(1);
    }
  }
}

// Lets one life play, and kills it up to 20 ms after its first acknowledgement. Returns the last, 0 if it was not killed.
auto play_and_kill(char const* path, std::chrono::microseconds time) -> std::uint64_t {
  int ends[2];
  if (::pipe(ends) != 0) {
    std::perror("pipe");
    return 0;
  }
  auto const player = ::fork(); // this process has no heap open now
  if (player == 0) {
    ::close(ends[0]);
    play(path, ends[1]);
  }
  ::close(ends[1]);
  std::uint64_t round = 0;
  auto const next = [&] { return ::read(ends[0], &round, sizeof round) == sizeof round; };
  if (next()) {
    std::this_thread::sleep_for(time);
  }
  int status = 0;
  if (player > 0) {
    ::kill(player, SIGKILL);
    ::waitpid(player, &status, 0);
  }
  while (next()) {
  }
  ::close(ends[0]);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? round : 0;
}

// Whether both hold the same rounds, each once.
auto agree(numbers const& rounds, texts const& words) -> bool {
  auto const same = [](std::uint64_t round, texts::value_type const& word) {
    return word.first == round && std::string_view{word.second} == text_of(round);
  };
  bool const has_no_gap = rounds.empty() || rounds.back() - rounds.front() + 1 == rounds.size();
  return has_no_gap && std::ranges::equal(rounds, words, same);
}

} // namespace

auto main(int argc, char** argv) -> int try {
  auto const* const path = argc > 1 ? argv[1] : "persistent_vector.heap";
  int kills = 100;
  if (argc > 2) {
    std::string_view const text{argv[2]};
    if (std::from_chars(text.data(), text.data() + text.size(), kills).ec != std::errc{} || kills < 1) {
      std::fputs("usage: persistent_vector [FILE] [KILLS]\n", stderr);
      return 2;
    }
  }
  std::filesystem::remove(path);
  std::mt19937 random{std::random_device{}()};
  std::uniform_int_distribution<int> microseconds{0, 20'000};
  std::uint64_t rounds_played = 0;
  int lost = 0;
  int mixed = 0;
  for (int i = 0; i < kills; ++i) {
    auto const acknowledged = play_and_kill(path, std::chrono::microseconds{microseconds(random)});
    if (acknowledged == 0) {
      std::puts("a life ended before it was killed");
      return 1;
    }
    auto heap = fmmap::or_throw(fmmap::persistent_heap::open(path));
    auto const* const rounds = fmmap::or_throw(heap.find<numbers const>("rounds"));
    auto const* const words = fmmap::or_throw(heap.find<texts const>("words"));
    rounds_played = rounds->empty() ? 0 : rounds->back();
    lost += rounds_played == acknowledged || rounds_played == acknowledged + 1 ? 0 : 1;
    mixed += agree(*rounds, *words) ? 0 : 1;
  }
  std::printf("%llu rounds of a vector and a map\n", static_cast<unsigned long long>(rounds_played));
  std::printf("%d kills, %d reopens, %d lost, %d mixed\n", kills, kills, lost, mixed);
  std::filesystem::remove(path);
  return lost + mixed == 0 ? 0 : 1;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
