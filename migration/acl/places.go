package acl

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

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
var notification = regexp.MustCompile(`^&__key(space|event)@([0-9]+)__:`)

// rewriteChannels gives channels of notifications the numbers, and the keys, that they
// have on the target. All other channels are called alike on both.
func rewriteChannels(words []string, places map[int]router.Place) []string {
	out := slices.Clone(words)
	for i, w := range out {
		at := notification.FindStringSubmatchIndex(w)
		if at == nil {
			continue
		}
		p, mapped := places[atoi(w[at[4]:at[5]])]
		if !mapped {
			continue
		}
		rest := w[at[1]:]
		if w[at[2]:at[3]] == "space" {
			rest = p.Pattern(rest)
		}
		out[i] = w[:at[4]] + strconv.Itoa(p.DB) + w[at[5]:at[1]] + rest
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
