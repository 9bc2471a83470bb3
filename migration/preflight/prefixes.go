package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/router"
)

// checkPrefixes looks at what follows from keys that have prefixes on the target: who may
// reach beyond them, and where a cluster puts them.
func checkPrefixes(ctx context.Context, in *inspection) []Finding {
	if !in.Map.Prefixed() {
		return nil
	}
	target := in.to
	if in.back() {
		target = in.from
	}
	out := slotted(in, target)
	wide, err := beyond(ctx, in, target)
	switch {
	case err != nil:
		out = append(out, unknown(target, "looking which users reach beyond the prefixes", err))
	case len(wide) > 0:
		out = append(out, warn(limiting(in.Map),
			"%s: %s may touch keys that begin with no prefix of the map (%s); a script of theirs that builds names of keys would write beside ours, or into others' keys", target, plural(int64(len(wide)), "user", "users"), strings.Join(wide, ", ")))
	}
	if len(out) == 0 {
		return one(pass("%s: no user of clients' reaches beyond the prefixes", target))
	}
	return out
}

// beyond names the users of the target, but our own, that may touch keys outside all
// prefixes.
func beyond(ctx context.Context, in *inspection, target *server) ([]string, error) {
	list, err := target.client().Do(ctx, "ACL", "LIST").StringSlice()
	if err != nil {
		return nil, fmt.Errorf("ACL LIST: %w", err)
	}
	me := whoami(ctx, target)
	var out []string
	for _, line := range list {
		rules := strings.Fields(line) // user NAME on … ~PATTERN … (… ~PATTERN)
		if len(rules) < 3 {
			continue
		}
		ours := rules[1] == ownUser || rules[1] == me && me != "default" // which clients may use as well
		if ours || !slices.Contains(rules, "on") {
			continue
		}
		if slices.ContainsFunc(rules[2:], func(rule string) bool { return wide(in.Map, rule) }) {
			out = append(out, rules[1])
		}
	}
	return out, nil
}

// wide reports whether a rule lets a user touch keys of a shared database that are
// nobody's.
func wide(m router.DBMap, rule string) bool {
	rule = strings.Trim(rule, "()")
	if rule == "allkeys" {
		return true
	}
	if strings.HasPrefix(rule, "%") { // %R~, %W~, %RW~
		_, after, ok := strings.Cut(rule, "~")
		if !ok {
			return false
		}
		rule = "~" + after
	}
	pattern, is := strings.CutPrefix(rule, "~")
	if !is {
		return false
	}
	for _, place := range m.Pairs() {
		if place.Prefix != "" && strings.HasPrefix(pattern, place.Pattern("")) {
			return false
		}
	}
	return true
}

// limiting says how a user is limited to the prefixes.
func limiting(m router.DBMap) string {
	var b strings.Builder
	b.WriteString("Let clients of databases that have prefixes use users that are limited to those:\nACL SETUSER USER resetkeys resetchannels")
	for _, db := range m.Sources() {
		if place, _ := m.Place(db); place.Prefix != "" {
			fmt.Fprintf(&b, " ~%s", place.Pattern("*"))
		}
	}
	b.WriteString(" &CHANNEL …")
	return b.String()
}

// slotted says what the prefixes do to the slots of a cluster.
func slotted(in *inspection, target *server) (out []Finding) {
	if target.info["cluster_enabled"] != "1" {
		return nil
	}
	var single, broken []string
	for _, db := range in.Map.Sources() {
		place, _ := in.Map.Place(db)
		switch tag, open := hashTag(place.Prefix); {
		case tag != "":
			single = append(single, fmt.Sprintf("%d (%s)", db, place.Prefix))
		case open:
			broken = append(broken, fmt.Sprintf("%d (%s)", db, place.Prefix))
		}
	}
	if len(single) > 0 {
		out = append(out, warn("That is what lets commands with several keys go on working. Where that is not needed, or a database is too large for one node, choose a prefix without braces.",
			"%s: the prefix has a hash tag, so all keys of source database %s are in one slot: one node has all of its memory and load, and no resharding parts it", target, strings.Join(single, ", ")))
	}
	if len(broken) > 0 {
		out = append(out, fail("Close the brace and put something into it, such as {c3}:, or choose a prefix without braces.",
			"%s: the prefix of source database %s opens a brace: hash tags that clients gave their keys would not count any more", target, strings.Join(broken, ", ")))
	}
	return out
}

// hashTag returns what a cluster goes by, of keys that begin with a prefix, if that is
// said by the prefix alone; open, that their own tags do not count although it is not.
func hashTag(prefix string) (tag string, open bool) {
	_, after, has := strings.Cut(prefix, "{")
	if !has {
		return "", false
	}
	tag, _, closed := strings.Cut(after, "}")
	if !closed || tag == "" {
		return "", true
	}
	return tag, false
}
