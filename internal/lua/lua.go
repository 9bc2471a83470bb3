// Package lua tells what can be told from the text of a script or of a library of functions.
// It owns the words that such a text is searched for, and reads what FUNCTION DUMP says.
// It never runs anything, and cannot know what a script makes up as it runs.
package lua

import "regexp"

var (
	changesDB = regexp.MustCompile(`(?i)(?:["']|\[=*\[)(?:select|move|swapdb|flushall)(?:["']|\]=*\])`)
	copies    = regexp.MustCompile(`(?i)(?:["']|\[=*\[)copy(?:["']|\]=*\])`)
	namesDB   = regexp.MustCompile(`(?i)(?:["']|\[=*\[)db(?:["']|\]=*\])`)
)

// NamesDatabase reports whether a text seems to name databases by number, or to speak of all
// of them: it has the word SELECT, MOVE, SWAPDB or FLUSHALL in quotes, whatever for, or both
// COPY and DB. A word that is put together as the script runs is not seen.
func NamesDatabase(text []byte) bool {
	return changesDB.Match(text) || copies.Match(text) && namesDB.Match(text)
}
