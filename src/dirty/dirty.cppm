// SPDX-License-Identifier: MIT OR Apache-2.0

// Which pages of a private mapping of a file may have been changed.
//
// An internal module: implementation units import it, interface units never do. The persistent heap commits what it lists.
export module fmmap.dirty;

export import :detector;
export import :runs;
