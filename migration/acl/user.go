// Package acl carries ACL users from one server to another, with no right that they have not at home.
// It owns reading users, what the other server can say of their rules, and the transaction that writes them.
// It never shows a password or its hash, and never guesses at a rule that it does not know.
package acl

import (
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/config"
)

// User is an ACL user as a server describes it.
type User struct {
	Name   string
	On     bool
	NoPass bool
	// TrustsPayloads is skip-sanitize-payload: what it RESTOREs is not looked through.
	TrustsPayloads bool
	// Passwords are SHA-256 sums in hexadecimal digits, as ACL SETUSER takes them after #.
	Passwords []config.Secret
	// Root are the rules of the user itself; each selector has its own.
	Root      Rules
	Selectors []Rules
	// Odd is what the server says of the user in words that are not known here.
	Odd []string
}

// Rules are what one selector allows, in the words of ACL SETUSER.
type Rules struct {
	Keys     []string // "~a:*", "%R~b:*"; "~*" for all
	Channels []string // "&news"; "&*" for all
	Commands []string // in order; the first one is +@all or -@all
	// Databases are those that may be selected, where Limited says that not all may.
	Databases []int
	Limited   bool
}

// The words for everything.
const (
	allKeys     = "~*"
	allChannels = "&*"
)

// add takes one word of the server's description; false says that it is not known.
func (r *Rules) add(word string) bool {
	switch {
	case word == "allkeys":
		r.Keys = append(r.Keys, allKeys)
	case word == "allchannels":
		r.Channels = append(r.Channels, allChannels)
	case word == "allcommands":
		r.Commands = append(r.Commands, "+@all")
	case word == "nocommands":
		r.Commands = append(r.Commands, "-@all")
	case word == "resetkeys", word == "resetchannels", word == "alldbs":
	case word == "resetdbs":
		r.Databases, r.Limited = nil, true
	case strings.HasPrefix(word, "db="):
		for text := range strings.SplitSeq(word[len("db="):], ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return false
			}
			r.Databases = append(r.Databases, n)
		}
		r.Limited = true
	case strings.HasPrefix(word, "~"), strings.HasPrefix(word, "%") && strings.Contains(word, "~"):
		r.Keys = append(r.Keys, word)
	case strings.HasPrefix(word, "&"):
		r.Channels = append(r.Channels, word)
	case len(word) > 1 && (word[0] == '+' || word[0] == '-'):
		r.Commands = append(r.Commands, strings.ToLower(word))
	default:
		return false
	}
	return true
}

// words returns the rules as ACL SETUSER takes them, for a user or a selector that allows
// nothing yet.
func (r Rules) words(k Known) []string {
	out := slices.Clone(r.Keys)
	if k.Channels {
		out = append(append(out, "resetchannels"), r.Channels...)
	}
	switch {
	case !r.Limited:
	case len(r.Databases) == 0:
		out = append(out, "resetdbs")
	default:
		out = append(out, databasesWord(r.Databases))
	}
	return append(out, r.Commands...)
}

// shown is words for people: without what is said by nothing being there.
func (r Rules) shown() string {
	out := slices.DeleteFunc(r.words(Known{Channels: true}), func(w string) bool { return w == "resetchannels" })
	return "(" + strings.Join(out, " ") + ")"
}

func databasesWord(list []int) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.Itoa(n)
	}
	return "db=" + strings.Join(texts, ",")
}

// tidy brings rules into the form in which a server keeps them: a pattern is named once,
// with all that may be done by it, and beside the one for everything there is no other.
func (r Rules) tidy() Rules {
	r.Keys = tidyKeys(r.Keys)
	r.Channels = tidyAll(r.Channels, allChannels)
	r.Databases = slices.Clone(r.Databases)
	slices.Sort(r.Databases)
	r.Databases = slices.Compact(r.Databases)
	return r
}

func tidyAll(list []string, all string) []string {
	if slices.Contains(list, all) {
		return []string{all}
	}
	var out []string
	for _, w := range list {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

func tidyKeys(list []string) []string {
	var order []string // patterns
	may := make(map[string]string)
	for _, word := range list {
		how, pattern := splitKey(word)
		if _, seen := may[pattern]; !seen {
			order = append(order, pattern)
		}
		for _, c := range how {
			if !strings.ContainsRune(may[pattern], c) {
				may[pattern] += string(c)
			}
		}
	}
	var out []string
	for _, pattern := range order {
		out = append(out, joinKey(may[pattern], pattern))
	}
	return tidyAll(out, allKeys)
}

// splitKey returns what a key rule allows, of "RW", and its pattern.
func splitKey(word string) (how, pattern string) {
	if head, pattern, ok := strings.Cut(word, "~"); ok && strings.HasPrefix(head, "%") {
		return strings.ToUpper(head[1:]), pattern
	}
	return "RW", strings.TrimPrefix(word, "~")
}

func joinKey(how, pattern string) string {
	if strings.Contains(how, "R") && strings.Contains(how, "W") {
		return "~" + pattern
	}
	return "%" + how + "~" + pattern
}

// setWords are the arguments of ACL SETUSER, behind the name, that make a user what it is,
// whatever it was.
func (u User) setWords(k Known) []string {
	words := []string{"reset", "off"}
	if u.On {
		words[1] = "on"
	}
	if u.TrustsPayloads && k.Payloads {
		words = append(words, "skip-sanitize-payload")
	}
	if u.NoPass {
		words = append(words, "nopass")
	}
	for _, p := range u.Passwords {
		words = append(words, "#"+p.Reveal())
	}
	words = append(words, u.Root.words(k)...)
	for _, s := range u.Selectors {
		words = append(words, Selector(s.words(k)))
	}
	return words
}

// Selector writes rules as ACL SETUSER reads a selector: split like words of redis-cli
// (sds.c: sdssplitargs), so that a key pattern with a quote must be quoted. A
// selector that it cannot split becomes an empty one without an error.
func Selector(rules []string) string {
	quoted := make([]string, len(rules))
	for i, r := range rules {
		if strings.ContainsAny(r, `"'`) {
			r = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(r) + `"`
		}
		quoted[i] = r
	}
	return "(" + strings.Join(quoted, " ") + ")"
}
