package acl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
)

// Action is what is to be done about a user.
type Action string

// The actions. Refuse is for a user that the target cannot have as it is, Leave for one
// that is nobody's to copy.
const (
	Create Action = "create"
	Change Action = "change"
	Keep   Action = "keep"
	Remove Action = "remove"
	Refuse Action = "refuse"
	Leave  Action = "leave"
)

// Options are the operator's wishes.
type Options struct {
	// Users are the only ones to look at; none: all.
	Users []string
	// Include are those of the ones that are left alone that are to be copied after all.
	Include []string
	// Prune removes users that only the target has.
	Prune bool
	// Weaker copies users without the rules that the target cannot have.
	Weaker bool
	// Never are users that are neither copied nor removed, whoever asks.
	Never []string
	// Places are where the source's databases are on the target; nil: where they are at
	// home, every key under its name.
	Places map[int]router.Place
}

// Difference is one kind of a user's rules that changes. It never holds a password.
type Difference struct {
	Of   string `json:"of"` // state, passwords, keys, channels, databases, commands, selectors
	Now  string `json:"now,omitempty"`
	Then string `json:"then,omitempty"`
}

// Step is what is to be done about one user, and why.
type Step struct {
	Name   string `json:"name"`
	Action Action `json:"action"`
	// Why says why it is refused or left alone.
	Why         []string     `json:"why,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
	// Lost are the rules that the target cannot have.
	Lost  []Loss   `json:"lost,omitempty"`
	Notes []string `json:"notes,omitempty"`

	user *User // as it is to be; a pointer, so that nobody prints what is in it
}

// Plan is what copying comes to. It was made of what both servers said; nothing is changed.
type Plan struct {
	Source string   `json:"source"`
	Target string   `json:"target"`
	Steps  []Step   `json:"users"`
	Notes  []string `json:"notes,omitempty"`

	to   Server
	self string // as whom we are logged in on the target
}

// Count returns how many users have an action.
func (p Plan) Count(a Action) (n int) {
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// Side is what was read of one server.
type Side struct {
	Users []User
	Self  string // as whom we are logged in
}

// Make says what has to be done. Users that are named and that nobody knows are an error.
func Make(source, target Side, from Catalog, to Server, o Options) (Plan, error) {
	p := Plan{to: to, self: target.Self}
	there := make(map[string]User, len(target.Users))
	for _, u := range target.Users {
		there[u.Name] = u
	}
	chosen := func(name string) bool { return len(o.Users) == 0 || slices.Contains(o.Users, name) }
	known := make(map[string]bool)
	for _, u := range source.Users {
		known[u.Name] = true
		if !chosen(u.Name) {
			continue
		}
		if why := o.leave(u.Name, source.Self, target.Self); why != "" {
			p.Steps = append(p.Steps, Step{Name: u.Name, Action: Leave, Why: []string{why}})
			continue
		}
		now, exists := there[u.Name]
		p.Steps = append(p.Steps, step(express(u, from, to, o.Places), now, exists, to.Catalog, o.Weaker))
	}
	for _, u := range target.Users {
		if known[u.Name] {
			continue
		}
		known[u.Name] = true
		if !chosen(u.Name) {
			continue
		}
		s := Step{Name: u.Name, Action: Leave, Why: []string{"only the target has it: --prune removes it"}}
		if why := o.leave(u.Name, "default", target.Self); why != "" {
			s.Why = []string{why}
		} else if o.Prune {
			s.Action, s.Why = Remove, []string{"only the target has it"}
		}
		p.Steps = append(p.Steps, s)
	}
	for _, name := range append(slices.Clone(o.Users), o.Include...) {
		if !known[name] {
			return p, fmt.Errorf("there is no ACL user %q on the source, nor on the target", name)
		}
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return strings.Compare(a.Name, b.Name) })
	p.Notes = o.notes(from, to)
	return p, nil
}

// leave says why a user is left alone. self are those as whom we are logged in.
func (o Options) leave(name string, self ...string) string {
	switch {
	case slices.Contains(o.Never, name):
		return "it is Crossfade's own"
	case slices.Contains(o.Include, name):
		return ""
	case name == "default":
		return "left alone: --include default copies it too"
	case slices.Contains(self, name):
		return "left alone, since we are logged in as it: --include " + name + " copies it too"
	}
	return ""
}

func (o Options) notes(from Catalog, to Server) []string {
	var out []string
	if prefixes := prefixesOf(o.Places); prefixes != nil {
		var texts []string
		open := false
		for _, p := range prefixes {
			open = open || p.Prefix == ""
			texts = append(texts, strconv.Quote(p.Prefix))
		}
		out = append(out, "Rules for keys hold in all databases: each pattern becomes one for every prefix of the map ("+strings.Join(texts, ", ")+"), and channels of notifications are called by the numbers and prefixes there.")
		if open {
			out = append(out, "A database without a prefix is in the map: the patterns for it hold for keys of such names in the shared databases, too.")
		}
	}
	if !to.Known.Payloads {
		out = append(out, "The target knows no sanitize-payload: whether it looks through what is RESTOREd is not up to its users.")
	}
	if more := to.Catalog.beyond(from); len(more) > 0 {
		out = append(out, fmt.Sprintf("The target knows %d commands more (%s). Who may run @all, or a category that they are in, may run these.", len(more), some(more)))
	}
	return out
}

// step compares a user with what the target has of it.
func step(e expressed, now User, exists bool, c Catalog, weaker bool) Step {
	s := Step{Name: e.user.Name, Lost: e.lost, Notes: e.notes, user: &e.user}
	switch {
	case len(e.refused) > 0:
		s.Action, s.Why = Refuse, e.refused
	case len(e.lost) > 0 && !weaker:
		s.Action, s.Why = Refuse, []string{"the target cannot have all of its rules: --force-weaker copies it without these"}
	case !exists:
		s.Action, s.Differences = Create, differences(User{}, e.user, c)
	case same(now, e.user, c):
		s.Action = Keep
	default:
		s.Action, s.Differences = Change, differences(now, e.user, c)
	}
	return s
}

// same reports whether two users are the same on a server.
func same(a, b User, c Catalog) bool {
	return len(a.Odd)+len(b.Odd) == 0 && len(differences(a, b, c)) == 0
}

func differences(now, then User, c Catalog) []Difference {
	var out []Difference
	differ := func(of, now, then string) { out = append(out, Difference{of, now, then}) }
	if a, b := now.state(), then.state(); a != b {
		differ("state", a, b)
	}
	if a, b := passwordWords(now, then); a != b {
		differ("passwords", a, b)
	}
	a, b := now.Root, then.Root
	list := func(of string, a, b []string) {
		if !sameSet(a, b) {
			differ(of, strings.Join(a, " "), strings.Join(b, " "))
		}
	}
	list("keys", a.Keys, b.Keys)
	list("channels", a.Channels, b.Channels)
	if a, b := databaseText(a), databaseText(b); a != b {
		differ("databases", a, b)
	}
	if !c.same(a.Commands, b.Commands) {
		differ("commands", strings.Join(a.Commands, " "), strings.Join(b.Commands, " "))
	}
	if !slices.EqualFunc(now.Selectors, then.Selectors, func(a, b Rules) bool { return sameRules(a, b, c) }) {
		differ("selectors", selectorText(now), selectorText(then))
	}
	if len(now.Odd) > 0 {
		differ("others", strings.Join(now.Odd, " "), "")
	}
	return out
}

func sameRules(a, b Rules, c Catalog) bool {
	return sameSet(a.Keys, b.Keys) && sameSet(a.Channels, b.Channels) && databaseText(a) == databaseText(b) && c.same(a.Commands, b.Commands)
}

func databaseText(r Rules) string {
	if !r.Limited {
		return ""
	}
	return databasesWord(r.Databases)
}

func selectorText(u User) string {
	texts := make([]string, len(u.Selectors))
	for i, s := range u.Selectors {
		texts[i] = s.shown()
	}
	return strings.Join(texts, " ")
}

func (u User) state() string {
	if u.Name == "" {
		return ""
	}
	words := []string{"off"}
	if u.On {
		words[0] = "on"
	}
	if u.NoPass {
		words = append(words, "nopass")
	}
	if u.TrustsPayloads {
		words = append(words, "skip-sanitize-payload")
	}
	return strings.Join(words, " ")
}

// passwordWords say how many passwords there are and how many of them are others, and
// nothing else about them.
func passwordWords(now, then User) (before, after string) {
	missing := func(a, b User) (n int) {
		for _, p := range a.Passwords {
			if !slices.Contains(b.Passwords, p) {
				n++
			}
		}
		return n
	}
	gone, fresh := missing(now, then), missing(then, now)
	before, after = counted(now.Passwords), counted(then.Passwords)
	if gone+fresh == 0 {
		return before, before
	}
	if gone > 0 && fresh < len(then.Passwords) {
		before += fmt.Sprintf(", %d of them not on the source", gone)
	}
	if fresh > 0 && len(now.Passwords) > 0 {
		after += fmt.Sprintf(", %d of them new", fresh)
	}
	return before, after
}

func counted(list []config.Secret) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return "1"
	}
	return strconv.Itoa(len(list))
}
