// Package keyspec knows where the keys are in a command: which of its words are keys, and what becomes of each.
// It owns the table of commands, which is made from what servers say of themselves, and the reading of what others say.
// It never does I/O, and never guesses: of a command that only its server understands it says so.
package keyspec

import (
	"iter"
	"strings"
)

//go:generate go run ./gen

// Command is what a server says of a command or a subcommand.
type Command struct {
	Name  string // in small letters; "xgroup|create" for a subcommand
	Arity int    // how many words it has with its name; so many at least when negative
	Flags string // words in the order of the alphabet
	Tips  string // the same: "request_policy:all_shards …"
	Specs []Spec
	Subs  []Command // by name

	odd oddity
}

// Spec says where some keys of a command are: where they begin, and how they go on.
type Spec struct {
	Use   Use
	Begin Begin
	Find  Find
}

// Begin says where keys begin.
type Begin struct {
	Word string // behind this word; "": at At
	At   int    // from where the word is looked for: from the end backwards when negative. 0: only the server knows
}

// Find says which words from the begin on are keys: up to Last, or as many as are
// Counted.
type Find struct {
	Step    int // from one key to the next; 0: only the server knows
	Last    int // counted from the first key, or from the command's end when negative
	Limit   int // above 1, the keys end after this part of the words that are left
	Counted bool
	Number  int // where the number of keys is, counted from the begin
	First   int // … and the first of them
}

// Use says what becomes of a key.
type Use uint16

// What servers say of keys. The first four exclude one another.
const (
	RO     Use = 1 << iota // it is read
	RW                     // it is read and changed
	OW                     // it is overwritten, whatever it was
	RM                     // it is removed
	Access                 // its data is returned, or copied
	Update
	Insert
	Delete
	NotKey        // a channel: it belongs to the slot of a key of this name, and is none
	Incomplete    // there are more of them, which nobody has described
	VariableFlags // what becomes of it depends on other words

	// Writes is for whether a key may change.
	Writes = RW | OW | RM
)

// useNames are the servers' words.
var useNames = [...]string{"RO", "RW", "OW", "RM", "access", "update", "insert", "delete", "not_key", "incomplete", "variable_flags"}

// String returns them as servers do.
func (u Use) String() string {
	var words []string
	for i, name := range useNames {
		if u&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	return strings.Join(words, " ")
}

// Key is a word of a command that is a key.
type Key struct {
	At  int // among the words, the name being 0
	Use Use
}

var byName = func() map[string]*Command {
	m := make(map[string]*Command, len(table)+len(unseen))
	for _, list := range [][]Command{table, unseen} {
		for i := range list {
			c := &list[i]
			c.odd = oddities[c.Name]
			m[c.Name] = c
		}
	}
	return m
}()

// Named returns a command by its name in small letters, nil where it is not known.
func Named(name string) *Command { return byName[name] }

// All returns the commands that are known, in no order.
func All() iter.Seq[*Command] {
	return func(yield func(*Command) bool) {
		for _, c := range byName {
			if !yield(c) {
				return
			}
		}
	}
}

// Keys appends the keys that a command names to dst, in the order in which the server
// lists them: none where it will refuse the command for its words, or where Exact is
// false. args are its words, the name first. What is behind BY and GET of SORT are
// patterns, and no keys.
func (c *Command) Keys(dst []Key, args [][]byte) []Key {
	if c = c.of(args); c == nil || c.Arity > 0 && len(args) != c.Arity || len(args) < -c.Arity {
		return dst
	}
	if c.odd != even {
		return c.odd.keys(dst, args)
	}
	dst, _ = c.specified(dst, args)
	return dst
}

// specified appends what the specs say: all of them, or nothing.
func (c *Command) specified(dst []Key, args [][]byte) ([]Key, bool) {
	before := len(dst)
	for i := range c.Specs {
		var ok bool
		if dst, ok = c.Specs[i].keys(dst, args); !ok {
			return dst[:before], false
		}
	}
	return dst, true
}

// Head is Keys for a command of which only the first words have come. It is false where
// these do not suffice to tell.
func (c *Command) Head(dst []Key, args [][]byte) ([]Key, bool) {
	if len(c.Subs) > 0 || c.odd != even && c.odd != oddSet {
		return dst, false
	}
	for i := range c.Specs {
		if s := &c.Specs[i]; s.Begin.Word != "" || s.Find.Counted || s.Find.Last < 0 {
			return dst, false
		}
	}
	return c.specified(dst, args)
}

// of returns the command or the subcommand that args are, nil where there is none.
func (c *Command) of(args [][]byte) *Command {
	if len(c.Subs) == 0 || len(args) < 2 {
		return c
	}
	for i := range c.Subs {
		if sub := &c.Subs[i]; is(args[1], sub.Name[len(c.Name)+1:]) {
			return sub
		}
	}
	return nil
}

// Exact reports whether Keys finds all keys of a command, and of all its subcommands.
func (c *Command) Exact() bool {
	for i := range c.Subs {
		if !c.Subs[i].Exact() {
			return false
		}
	}
	if c.odd != even {
		return true
	}
	plain := true
	for i := range c.Specs {
		s := &c.Specs[i]
		if s.Begin.At == 0 || s.Find.Step == 0 || s.Use&Incomplete != 0 {
			return false
		}
		plain = plain && s.Begin.Word == "" && !s.Find.Counted
	}
	// A module's own function finds the keys where they move although they seem not to.
	return !plain || !c.Is("movablekeys")
}

// Is reports whether a command has a flag.
func (c *Command) Is(flag string) bool {
	for f := range strings.FieldsSeq(c.Flags) {
		if f == flag {
			return true
		}
	}
	return false
}

// Changes reports whether a command may change a key that it names. Of modules' commands
// that only read, servers say no more than that.
func (c *Command) Changes() bool {
	if c.Is("readonly") {
		return false
	}
	for i := range c.Specs {
		if c.Specs[i].Use&Writes != 0 {
			return true
		}
	}
	for i := range c.Subs {
		if c.Subs[i].Changes() {
			return true
		}
	}
	return false
}

// Has reports whether args are a subcommand that is known, or a command without any.
func (c *Command) Has(args [][]byte) bool { return c.of(args) != nil }
