package acl

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/router"
)

// rewriteKeys gives patterns the names that the keys have on the target. Users see all
// databases, so a pattern becomes one for each prefix that there is.
func rewriteKeys(words []string, places map[int]router.Place) []string {
	if places != nil && len(places) == 0 {
		return nil // nothing that it may see is there
	}
	prefixes := prefixesOf(places)
	if len(prefixes) == 0 {
		return words
	}
	var out []string
	for _, w := range words {
		how, pattern := splitKey(w)
		for _, p := range prefixes {
			out = append(out, joinKey(how, p.Pattern(pattern)))
		}
	}
	return out
}

// prefixesOf returns a place for each prefix, in order; none where no key is renamed.
func prefixesOf(places map[int]router.Place) []router.Place {
	var out []router.Place
	renamed := false
	for _, n := range slices.Sorted(maps.Keys(places)) {
		p := router.Place{Prefix: places[n].Prefix}
		renamed = renamed || p.Prefix != ""
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	if !renamed {
		return nil
	}
	return out
}

// notification is a channel of keyspace notifications: its database, and what is behind it.
// A server never writes a number with zeros before it.
var notification = regexp.MustCompile(`^&__key(space|event)@(0|[1-9][0-9]*)__:`)

// mayNotify reports whether a rule for channels takes in notifications, or some of them, by
// what it begins with. One that begins with a wildcard is for all channels of some kind, and
// not for notifications.
func mayNotify(word string) bool {
	begins := word[len("&"):]
	at := strings.IndexAny(begins, `*?[\`)
	if at >= 0 {
		begins = begins[:at]
	}
	for _, channel := range []string{"__keyspace@", "__keyevent@"} {
		if strings.HasPrefix(begins, channel) || at > 0 && strings.HasPrefix(channel, begins) {
			return true
		}
	}
	return false
}

// channels gives channels of notifications the numbers, and the keys, that they have on the
// target; all other channels are called alike on both. What would tell of databases that are
// not the user's there is left out.
func (e *expressed) channels(words []string, places map[int]router.Place) []string {
	if places == nil {
		return slices.Clone(words)
	}
	var out []string
	for _, w := range words {
		at := notification.FindStringSubmatchIndex(w)
		if at == nil {
			if mayNotify(w) {
				e.lose(w, "with a map, notifications can be allowed of a database that is named by its number only: this would tell of keys of others")
				continue
			}
			out = append(out, w)
			continue
		}
		number := w[at[4]:at[5]]
		p, mapped := places[atoi(number)]
		if !mapped {
			e.note("%s is left out: database %s is not in the map, so there is nothing on the target to tell of", w, number)
			continue
		}
		rest, space := w[at[1]:], w[at[2]:at[3]] == "space"
		if space {
			rest = p.Pattern(rest)
		}
		then := w[:at[4]] + strconv.Itoa(p.DB) + w[at[5]:at[1]] + rest
		if !space && p.Prefix != "" {
			e.note("%s tells of all keys of the target's database %d, those without the prefix too", then, p.DB)
		}
		out = append(out, then)
	}
	return out
}

// atoi reads a database's number, -1 for one that is too large to be one.
func atoi(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}
