//go:build !planted

package planted

// Possible says whether this program can have bugs planted.
const Possible = false

// Is says whether a bug is planted: never.
func Is(Bug) bool { return false }

// Plant does nothing.
func Plant(Bug) {}
