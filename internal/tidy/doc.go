// Package tidy holds tests of the source tree itself: what may import what,
// who may touch the outside world, how long a function may be, what must be
// documented, and which words have no place here. They are rules of the
// project that a reader would otherwise have to remember.
//
// It has no code but tests, and nothing may import it.
package tidy
