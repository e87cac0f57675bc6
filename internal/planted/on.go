//go:build planted

package planted

// Possible says whether this program can have bugs planted.
const Possible = true

// active is set between runs only.
var active Bug

// Is says whether a bug is planted.
func Is(b Bug) bool { return active == b }

// Plant plants one bug in the place of the last; an empty one plants none. It
// must not be called while anything runs.
func Plant(b Bug) { active = b }
