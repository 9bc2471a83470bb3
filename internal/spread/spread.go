// Package spread knows what each command means on a Redis Cluster to a client that believes in one standalone server.
// It owns one row for each command and subcommand: where it goes, and how several answers become one.
// It never does I/O, and never guesses: of a command without a row it says so, and the cluster is to be asked.
package spread

import "strings"

// Way says where a command goes.
type Way uint8

// The ways.
const (
	Unknown Way = iota // it has no row: what the cluster's own COMMAND says holds
	Slot               // to the master that has the slot of its keys, which must be one
	Split              // to the masters that have the slots of its keys, in parts
	Masters            // to all masters
	Any                // to any one master, always the same for a connection
	Hub                // to the one master where all clients' classic pub/sub meets
	Here               // answered, or done in several steps, by who stands before the cluster
	Refused            // nowhere: Why says why
)

// Merge says how the answers of several masters become one. Any error among them is the
// answer, whatever the others are, but for One.
type Merge uint8

// The merges.
const (
	First   Merge = iota // all must have succeeded; the first one's is the answer
	One                  // one must have succeeded; its is the answer
	Sum                  // numbers are added
	Least                // the smallest number
	And                  // of each element, whether all say 1
	Sums                 // of each element the sum; what is no number is the first one's
	Heard                // Sums, but for channels of notifications, to which clients listen everywhere
	Concat               // the elements of all, one after the other
	Union                // the same, each but once
	InOrder              // of a command that was split: each element at its key's place
)

// Row is what a command means.
type Row struct {
	Way    Way
	Merge  Merge
	Blocks Block  // where it says for how long it may wait; zero for those that never do
	Why    string // the error, whole, of one that is refused
}

// Block says where a command has its timeout.
type Block uint8

// The forms of commands that block.
const (
	Never        Block = iota
	LastSeconds        // the last word, in seconds
	FirstSeconds       // the first one behind the name, in seconds
	OptionMillis       // behind BLOCK, in milliseconds; without it the command does not block
	LastMillis         // the last word, in milliseconds
)

// Of returns the row of a command: args are its words, the name first.
func Of(args [][]byte) Row {
	var buf [64]byte
	name, ok := lower(buf[:0], args[0])
	if !ok {
		return Row{}
	}
	row, ok := rows[string(name)]
	if !ok {
		return Row{}
	}
	subs := row.subs
	if subs == nil || len(args) < 2 {
		return row.Row
	}
	sub, ok := lower(name, args[1])
	if !ok {
		return row.Row
	}
	if r, ok := subs[string(sub[len(name):])]; ok {
		return r
	}
	return row.Row // the server says that there is no such subcommand
}

// Known reports whether a command, or "command|subcommand", has a row of its own.
func Known(name string) bool {
	name, sub, has := strings.Cut(name, "|")
	row, ok := rows[name]
	if !ok || !has || row.subs == nil {
		return ok
	}
	_, ok = row.subs[sub]
	return ok
}

// lower appends a word in small letters; false where it is longer than any name.
func lower(dst, word []byte) ([]byte, bool) {
	if len(word) > 32 {
		return dst, false
	}
	for _, c := range word {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst, true
}
