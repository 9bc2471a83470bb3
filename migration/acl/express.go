package acl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/router"
)

// Loss is a rule that the target cannot have, and what the user loses with it.
type Loss struct {
	Rule string `json:"rule"`
	What string `json:"what"`
}

// expressed is a user as the target can have it.
type expressed struct {
	user User
	// refused is why the target must not have the user in any form.
	refused []string
	lost    []Loss
	notes   []string
}

// express says a user of the source in what the target knows. What it may there it may at
// home, as far as both servers know the same commands. places are where the databases of
// the source are on the target; nil: where they are at home.
func express(u User, from Catalog, to Server, places map[int]router.Place) expressed {
	e := expressed{user: u}
	for _, odd := range u.Odd {
		e.refused = append(e.refused, fmt.Sprintf("the source says %q of it, which is not known here", odd))
	}
	e.user.Selectors = nil
	e.user.Root = e.rules(u.Root, from, to, places)
	for _, s := range u.Selectors {
		if !to.Known.Selectors {
			e.lose(s.shown(), "the target knows no selectors: what it allows besides the other rules")
			continue
		}
		e.user.Selectors = append(e.user.Selectors, e.rules(s, from, to, places))
	}
	if u.TrustsPayloads && !to.Known.Payloads {
		e.note("skip-sanitize-payload is left out: the target knows no such thing, and looks through the payloads of all users or of none")
		e.user.TrustsPayloads = false
	}
	return e
}

func (e *expressed) lose(rule, what string) {
	e.lost = append(e.lost, Loss{rule, what})
}

func (e *expressed) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(e.notes, text) {
		e.notes = append(e.notes, text)
	}
}

// rules expresses one selector, or the root.
func (e *expressed) rules(r Rules, from Catalog, to Server, places map[int]router.Place) Rules {
	out, sees := Rules{Limited: r.Limited}, places
	if r.Limited {
		if !to.Known.Databases {
			e.refused = append(e.refused, databasesWord(r.Databases)+": the target cannot keep a user to some databases, so it would see all")
		}
		sees = e.databases(&out, r.Databases, places)
	}
	for _, word := range rewriteKeys(r.Keys, sees) {
		if how, _ := splitKey(word); how != "RW" && !to.Known.HalfKeys {
			e.lose(word, "the target knows no keys that may only be read or only be written: these are out of reach there")
			continue
		}
		out.Keys = append(out.Keys, word)
	}
	out.Commands = e.commands(r.Commands, from, to)
	switch {
	case to.Known.Channels:
		// Whoever may not select a database may still hear of it.
		out.Channels = e.channels(r.Channels, places)
	case slices.Contains(r.Channels, allChannels):
		out.Channels = []string{allChannels}
	default:
		e.silence(&out, r.Channels, to)
		out.Channels = []string{allChannels}
	}
	return out.tidy()
}

// databases maps the databases that may be selected, and returns the places of those only.
func (e *expressed) databases(out *Rules, list []int, places map[int]router.Place) map[int]router.Place {
	if places == nil {
		out.Databases = list
		return nil
	}
	its := make(map[int]router.Place)
	for _, n := range list {
		if p, ok := places[n]; ok {
			its[n] = p
			out.Databases = append(out.Databases, p.DB)
			continue
		}
		e.note("database %d is not in the map, so there is nothing on the target to let it see", n)
	}
	return its
}

// silence takes publishing and listening from a user that may use some channels only, for
// a target where who may do it at all may use all.
func (e *expressed) silence(out *Rules, channels []string, to Server) {
	may := to.Catalog.rights(out.Commands).may
	var takes []string
	for _, name := range []string{"publish", "subscribe", "psubscribe"} {
		if may[name] {
			takes = append(takes, "-"+name)
		}
	}
	if len(takes) == 0 {
		return
	}
	rule := strings.Join(channels, " ")
	if rule == "" {
		rule = "no channels"
	}
	e.lose(rule, "the target has no rules for channels, and all of them would be open: it gets "+strings.Join(takes, " "))
	out.Commands = append(out.Commands, takes...)
}
