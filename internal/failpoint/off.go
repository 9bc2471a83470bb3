//go:build !failpoints

// Package failpoint lets tests kill, stop or weaken the program at named places.
// It owns the names' meaning; without the build tag "failpoints" it is empty.
// It never does anything in a released binary.
package failpoint

// Enabled reports whether this binary was built with failpoints.
const Enabled = false

// Hit marks a place in the program.
func Hit(string) {}

// On reports whether a behaviour was switched for a test.
func On(string) bool { return false }

// Value returns what a test has set a name to, or "".
func Value(string) string { return "" }
